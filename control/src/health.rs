//! `healthCheckNodePort`: tells load balancers whether this node has endpoints of a service, on a port of its own for each
//! service, at the addresses of node ports. It must not know why a service has the endpoints that it has.

use crate::compile::HealthPort;
use crate::object::Named;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, serve};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tables::Addr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How many endpoints this node has, so that load balancers may spread by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for the health checks of {service}: {source}; see who does (ss -tlnp 'sport = :{}')", addr.port())]
pub struct HealthError {
    service: Named,
    addr: SocketAddr,
    source: io::Error,
}

/// The ports that are open.
#[derive(Default)]
pub struct HealthPorts {
    open: BTreeMap<Named, Port>,
    /// The node forwards at all.
    node_is_healthy: Arc<AtomicBool>,
}

struct Port {
    number: u16,
    answer: Arc<Answer>,
    listeners: BTreeMap<Addr, Listener>,
}

struct Answer {
    service: Named,
    local_endpoints: AtomicUsize,
    node_is_healthy: Arc<AtomicBool>,
}

/// Closed when it is dropped.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthPorts {
    pub fn set_node_is_healthy(&self, is_healthy: bool) {
        self.node_is_healthy.store(is_healthy, Ordering::Relaxed);
    }

    /// Opens, closes and updates, so that exactly these are served at these addresses. What cannot be opened is tried again
    /// with the next call. Must be called inside a tokio runtime.
    pub fn serve(&mut self, wanted: &BTreeMap<Named, HealthPort>, addrs: &[Addr]) -> Result<(), HealthError> {
        // First of all those close whose ports others may have now.
        self.open.retain(|service, port| wanted.get(service).is_some_and(|wanted| wanted.port == port.number));
        let mut outcome = Ok(());
        for (service, health) in wanted {
            let node_is_healthy = &self.node_is_healthy;
            let port = self.open.entry(service.clone()).or_insert_with(|| Port::new(service, health, node_is_healthy));
            port.answer.local_endpoints.store(health.local_endpoints, Ordering::Relaxed);
            outcome = outcome.and(port.listen(addrs));
        }
        outcome
    }
}

impl Port {
    fn new(service: &Named, health: &HealthPort, node_is_healthy: &Arc<AtomicBool>) -> Port {
        let answer = Answer {
            service: service.clone(),
            local_endpoints: AtomicUsize::new(health.local_endpoints),
            node_is_healthy: node_is_healthy.clone(),
        };
        Port { number: health.port, answer: Arc::new(answer), listeners: BTreeMap::new() }
    }

    fn listen(&mut self, addrs: &[Addr]) -> Result<(), HealthError> {
        self.listeners.retain(|addr, _| addrs.contains(addr));
        let mut outcome = Ok(());
        for addr in addrs.iter().filter(|addr| !self.listeners.contains_key(addr)).copied().collect::<Vec<_>>() {
            let at = SocketAddr::new(addr.ip(), self.number);
            match listen(at, self.answer.clone()) {
                Ok(listener) => drop(self.listeners.insert(addr, listener)),
                Err(source) => {
                    outcome = Err(HealthError { service: self.answer.service.clone(), addr: at, source });
                }
            }
        }
        outcome
    }
}

fn listen(addr: SocketAddr, answer: Arc<Answer>) -> io::Result<Listener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let router = Router::new().fallback(tell).with_state(answer);
    Ok(Listener(tokio::spawn(async move {
        let _ = serve(listener, router).await;
    })))
}

/// Whatever is asked for.
async fn tell(State(answer): State<Arc<Answer>>) -> impl IntoResponse {
    let count = answer.local_endpoints.load(Ordering::Relaxed);
    let is_healthy = answer.node_is_healthy.load(Ordering::Relaxed);
    let status = if count > 0 && is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": { "namespace": answer.service.namespace, "name": answer.service.name },
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, count.to_string()),
    ];
    (status, headers, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn wanted(port: u16, local_endpoints: usize) -> BTreeMap<Named, HealthPort> {
        [(Named::new("demo", "web"), HealthPort { port, local_endpoints })].into()
    }

    async fn ask(addr: &str, port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((addr, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_tells_endpoints_in_both_families_and_closes_with_its_service() {
        let (port, addrs) = (free_port(), ["127.0.0.1", "::1"].map(|addr| addr.parse().unwrap()));
        let mut ports = HealthPorts::default();
        ports.set_node_is_healthy(true);
        ports.serve(&wanted(port, 2), &addrs).unwrap();
        for addr in ["127.0.0.1", "::1"] {
            let text = ask(addr, port).await.unwrap();
            assert!(text.starts_with("HTTP/1.0 200 OK"), "{text}");
            assert!(text.to_lowercase().contains("x-load-balancing-endpoint-weight: 2\r\n"), "{text}");
            let body = text.split("\r\n\r\n").nth(1).unwrap();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let service = json!({ "namespace": "demo", "name": "web" });
            assert_eq!(body, json!({ "service": service, "localEndpoints": 2, "serviceProxyHealthy": true }));
        }
        ports.serve(&wanted(port, 0), &addrs).unwrap();
        let text = ask("127.0.0.1", port).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 503") && text.contains("\"localEndpoints\":0"), "{text}");
        ports.serve(&wanted(port, 1), &addrs[..1]).unwrap();
        tokio::task::yield_now().await;
        assert!(ask("::1", port).await.is_none(), "the address is the node's no more");
        ports.set_node_is_healthy(false);
        assert!(ask("127.0.0.1", port).await.unwrap().starts_with("HTTP/1.0 503"), "nothing is forwarded");
        ports.serve(&BTreeMap::new(), &addrs).unwrap();
        tokio::task::yield_now().await;
        assert!(ask("127.0.0.1", port).await.is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_that_is_taken_is_said_and_opened_once_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, addrs) = (taken.local_addr().unwrap().port(), ["127.0.0.1".parse().unwrap()]);
        let mut ports = HealthPorts::default();
        let error = ports.serve(&wanted(port, 1), &addrs).unwrap_err().to_string();
        assert!(error.contains("demo/web") && error.contains(&format!(":{port}")), "{error}");
        drop(taken);
        ports.serve(&wanted(port, 1), &addrs).unwrap();
        assert!(ask("127.0.0.1", port).await.is_some());
    }
}
