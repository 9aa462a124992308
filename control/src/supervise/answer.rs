//! Each request to its answer.

use super::Supervisor;
use super::session::SessionError;
use super::view::{endpoint_text, kind_name};
use crate::api::{Failure, Question, Reply, Request, code};
use crate::attachment;
use crate::flows::{self, Names};
use crate::listing::ExplainView;
use crate::node::HOST_DEVICE;
use crate::object::Named;
use crate::serve::ReplyTo;
use tables::message::{ExplainQuery, Explained, InterfaceInfo, InterfaceKind};
use tables::{Addr, Protocol};

impl Supervisor {
    pub(super) async fn answer(&mut self, request: Request, reply: ReplyTo) {
        let answer = match request {
            Request::Status => Reply::of(Ok(self.status_view())),
            Request::Runtime => Reply::of(self.need_dataplane().map(|()| self.runtime_view())),
            Request::Interfaces => Reply::of(Ok(self.interface_views())),
            Request::Endpoints => Reply::of(Ok(self.endpoint_views())),
            Request::Services => Reply::of(Ok(self.service_views())),
            Request::Policies => Reply::of(Ok(self.policy_views())),
            Request::Routes => Reply::of(Ok(self.route_views())),
            Request::Drops => Reply::of(self.need_dataplane().map(|()| self.drop_views())),
            Request::Flows => return self.answer_flows(reply),
            Request::Metrics => Reply::of(Ok(self.metrics())),
            Request::Ready => Reply::of(self.ready()),
            Request::Explain(question) => Reply::of(self.explain(question).await),
            Request::CniAdd(pod) => return self.cni_add(pod, reply),
            Request::CniDel(pod) => {
                return self.cni_del(&attachment::key(&pod.container, &pod.ifname), Some(reply)).await;
            }
            Request::CniCheck(pod) => return self.cni_check(pod, reply),
            Request::CniStatus => Reply::of(self.cni_status()),
            Request::CniGc { valid } => Reply::of(self.cni_gc(valid).await),
        };
        let _ = reply.send(answer);
    }

    fn need_dataplane(&self) -> Result<(), Failure> {
        match self.dataplane {
            Some(_) => Ok(()),
            None => Err(Failure::new(code::FAILED, "the dataplane is gone: `fairway status` says why")),
        }
    }

    fn ready(&self) -> Result<(), Failure> {
        self.need_dataplane()?;
        if self.state.is_complete() && self.publisher.generation() > 0 {
            Ok(())
        } else {
            Err(Failure::new(code::FAILED, "the tables are not published yet"))
        }
    }

    fn answer_flows(&self, reply: ReplyTo) {
        let copies = self.custody.flows.iter().map(|(worker, fd)| Ok((*worker, fd.try_clone()?)));
        let copies = copies.collect::<std::io::Result<Vec<_>>>();
        let names = self.flow_names();
        std::thread::spawn(move || {
            let listed = copies.map_err(|error| error.to_string());
            let listed = listed.and_then(|regions| flows::list(regions, &names).map_err(|error| error.to_string()));
            let _ = reply.send(Reply::of(listed.map_err(|text| Failure::new(code::FAILED, text))));
        });
    }

    fn flow_names(&self) -> Names {
        let named = |name: &String| {
            self.store.get(name).map_or_else(|| name.clone(), |attachment| attachment.pod_id().to_string())
        };
        let services = self.compiler.services().into_iter();
        Names {
            interfaces: self.interfaces().map(|info| (info.id, named(&info.spec.name))).collect(),
            services: services.map(|service| (service.id, format!("{}/{}", service.namespace, service.name))).collect(),
        }
    }

    async fn explain(&mut self, question: Question) -> Result<ExplainView, Failure> {
        self.need_dataplane()?;
        let query = self.query(&question)?;
        let Some(dataplane) = &mut self.dataplane else { return self.need_dataplane().map(|()| unreachable!()) };
        match dataplane.explain(query).await {
            Ok(explained) => Ok(self.explain_view(explained)),
            Err(error @ SessionError::Refused { .. }) => Err(Failure::new(code::FAILED, error)),
            Err(error) => {
                self.lose_dataplane(&error);
                Err(Failure::new(code::FAILED, error))
            }
        }
    }

    fn query(&self, question: &Question) -> Result<ExplainQuery, Failure> {
        let protocol: Protocol = question.protocol.parse().map_err(|text: String| Failure::new(code::FAILED, text))?;
        let (sources, destinations) = (self.resolve(&question.src)?, self.resolve(&question.dst)?);
        let pairs = sources.iter().flat_map(|&src| destinations.iter().map(move |&dst| (src, dst)));
        let (src, dst) = pairs
            .filter(|(src, dst)| src.is_v4() == dst.is_v4())
            .min_by_key(|(src, _)| !src.is_v4())
            .ok_or_else(|| {
                let text = format!("{} and {} have no address family in common", question.src, question.dst);
                Failure::new(code::FAILED, text)
            })?;
        let interface = match &question.from {
            Some(from) => self.interface_named(from)?,
            None => self.interface_with(src),
        };
        Ok(ExplainQuery { interface, src, dst, src_port: question.src_port, dst_port: question.port, protocol })
    }

    /// An address, or those of a pod or service.
    fn resolve(&self, text: &str) -> Result<Vec<Addr>, Failure> {
        if let Ok(addr) = text.parse() {
            return Ok(vec![addr]);
        }
        let unknown = || {
            let hint = "an address, namespace/pod or namespace/service is expected";
            Failure::new(code::FAILED, format!("{text:?} is not known here: {hint}"))
        };
        let (namespace, name) = text.split_once('/').ok_or_else(unknown)?;
        let id = Named::new(namespace, name);
        let attached = self.store.iter().find(|attachment| attachment.pod_id() == id);
        let found = attached.map(|attachment| &attachment.addrs);
        let found = found.or_else(|| self.state.pod(&id).map(|pod| &pod.addrs).filter(|addrs| !addrs.is_empty()));
        let found = found.or_else(|| self.state.service(&id).map(|service| &service.cluster_ips));
        found.filter(|addrs| !addrs.is_empty()).cloned().ok_or_else(unknown)
    }

    fn interface_with(&self, addr: Addr) -> Option<u32> {
        let host = self.state.local().host.contains(&addr) || self.state.local().addrs.contains(&addr);
        let sends =
            |info: &&InterfaceInfo| info.spec.addrs.contains(&addr) || host && info.spec.kind == InterfaceKind::Host;
        self.interfaces().find(sends).map(|info| info.id)
    }

    /// `uplink`, `host`, a pod, or an interface by its name. The uplink is the way in that has no interface.
    fn interface_named(&self, name: &str) -> Result<Option<u32>, Failure> {
        let pod = |key: &str| self.store.get(key).map(|attachment| attachment.pod_id().to_string());
        let is_named = |info: &&InterfaceInfo| {
            let spec = &info.spec;
            spec.name == name
                || spec.kind != InterfaceKind::Pod && kind_name(spec.kind) == name
                || pod(&spec.name).as_deref() == Some(name)
        };
        let found = self.interfaces().find(is_named).ok_or_else(|| {
            Failure::new(
                code::FAILED,
                format!("no interface {name:?}: `fairway interfaces` lists them ({HOST_DEVICE}, ...)"),
            )
        })?;
        Ok((found.spec.kind != InterfaceKind::Uplink).then_some(found.id))
    }

    fn explain_view(&self, explained: Explained) -> ExplainView {
        ExplainView {
            verdict: explained.verdict,
            reason: explained.reason,
            policy: explained.policy.and_then(|index| self.compiler.policy_name(index)),
            service: explained.service.and_then(|id| self.compiler.service_name(id)),
            backends: explained.backends.iter().map(|(addr, port)| endpoint_text(*addr, *port)).collect(),
            steps: explained.steps,
            inside: explained.inside,
            outside: explained.outside,
            masquerade: explained.masquerade,
            generation: explained.generation,
        }
    }
}
