//! EndpointSlices.

use super::{FieldError, Parsed, indexed, is_others, label, named, port, protocol, read_addr, wrong};
use crate::object::{EndpointSlice, SliceEndpoint, SlicePort};
use k8s_openapi::api::discovery::v1 as discovery;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

impl TryFrom<discovery::EndpointSlice> for EndpointSlice {
    type Error = FieldError;
    fn try_from(slice: discovery::EndpointSlice) -> Parsed<EndpointSlice> {
        let v4 = match slice.address_type.as_str() {
            "IPv4" => Some(true),
            "IPv6" => Some(false),
            "FQDN" => None,
            other => return wrong("addressType", format_args!("{other:?} is none of IPv4, IPv6 and FQDN")),
        };
        let endpoints = match v4 {
            Some(v4) if !is_others(&slice.metadata) => {
                let all = slice.endpoints.unwrap_or_default();
                indexed(&all, "endpoints", |field, endpoint| slice_endpoint(field, endpoint, v4))?
            }
            _ => Vec::new(),
        };
        let mut ports = Vec::new();
        for (i, p) in slice.ports.iter().flatten().enumerate() {
            // A port without a number means "all ports", which no service port can be mapped to.
            let Some(number) = p.port else { continue };
            ports.push(SlicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(&format!("ports[{i}].protocol"), p.protocol.as_deref())?,
                port: port(&format!("ports[{i}].port"), number)?,
            });
        }
        let service = label(&slice.metadata, SERVICE_NAME_LABEL).cloned();
        Ok(EndpointSlice { id: named(&slice.metadata)?.into(), service, ports, endpoints })
    }
}

/// Conditions left out mean: ready, serving, not terminating.
fn slice_endpoint(field: &str, endpoint: &discovery::Endpoint, v4: bool) -> Parsed<SliceEndpoint> {
    let Some(first) = endpoint.addresses.first() else { return wrong(format!("{field}.addresses"), "is empty") };
    let field = format!("{field}.addresses[0]");
    let addr = read_addr(&field, first)?;
    if addr.is_v4() != v4 {
        return wrong(field, format_args!("{addr} is not of the slice's addressType"));
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    Ok(SliceEndpoint {
        addr,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone().filter(|node| !node.is_empty()),
        for_zones: zones.map(|zone| zone.name.clone()).collect(),
        for_nodes: nodes.map(|node| node.name.clone()).collect(),
    })
}
