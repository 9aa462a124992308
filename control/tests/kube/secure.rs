//! The API server behind TLS, for clients that show a certificate of its authority or a token: how a kubeconfig file and a
//! pod's service account say who we are. Certificates are made for each test.

use super::server::{self, Server, Shared};
use super::store::Refusal;
use super::world::{NODES, Scratch, World, node, timing};
use super::{fill, play};
use control::kube::{self, Cluster};
use control::source::Reach;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const IN_POD: &str = "FAIRWAY_KUBE_IN_POD";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

struct Identity {
    pem: String,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        Authority { pem: own.pem(), der: own.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { pem: cert.pem(), der: cert.der().clone(), key }
    }
}

/// The tests' server once more, by TLS alone.
struct Secure {
    port: u16,
    tokens: Arc<Mutex<BTreeSet<String>>>,
}

impl Secure {
    async fn start(server: &Server, authority: &Authority) -> Secure {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, tokens) = (listener.local_addr().unwrap().port(), Arc::<Mutex<BTreeSet<String>>>::default());
        tokio::spawn(accept(listener, acceptor(authority), server.shared.clone(), tokens.clone()));
        Secure { port, tokens }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let own = authority.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap());
    TlsAcceptor::from(Arc::new(config.with_single_cert(vec![own.der], key).unwrap()))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>, tokens: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, shared, tokens) = (tls.clone(), shared.clone(), tokens.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let is_known = stream.get_ref().1.peer_certificates().is_some();
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = shared.clone();
                let may = is_known || has_token(&request, &tokens.lock().unwrap());
                async move { if may { server::answer(request, shared).await } else { Ok(server::refusal(&unauthorized())) } }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn has_token(request: &Request<Incoming>, tokens: &BTreeSet<String>) -> bool {
    let said = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    said.and_then(|text| text.strip_prefix("Bearer ")).is_some_and(|token| tokens.contains(token))
}

fn unauthorized() -> Refusal {
    (401, "Unauthorized", "Unauthorized".to_owned())
}

/// As files beside it.
fn kubeconfig(directory: &Path, url: &str, authority: Option<&str>, user: serde_json::Value) -> PathBuf {
    let mut cluster = json!({ "server": url });
    if let Some(pem) = authority {
        std::fs::write(directory.join("ca.pem"), pem).unwrap();
        cluster["certificate-authority"] = json!("ca.pem");
    }
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "u", "user": user }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let path = directory.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// The world, which from now on is followed as this file says.
async fn follow(world: World, kubeconfig: &Path) -> World {
    let server = kube::Server::of_kubeconfig(kubeconfig, None).await.unwrap();
    let cluster = Cluster::follow(server, timing(), &world.state_dir.0, None).unwrap();
    world.by(cluster)
}

#[test]
fn a_certificate_says_who_we_are() {
    play(async {
        let (world, authority, files) = (World::new().await, Authority::new(), Scratch::new());
        fill(&world);
        let secure = Secure::start(&world.server, &authority).await;
        let client = authority.issue("fairway", ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(files.0.join("client.pem"), &client.pem).unwrap();
        std::fs::write(files.0.join("client.key"), client.key.serialize_pem()).unwrap();
        let user = json!({ "client-certificate": "client.pem", "client-key": "client.key" });
        let path = kubeconfig(&files.0, &secure.url(), Some(&authority.pem), user);
        let mut world = follow(world, &path).await;
        world.until_watched().await;
        world.server.store().put(NODES, node("b", 2));
        world.until_same().await;
    });
}

#[test]
fn who_is_not_known_and_whom_we_do_not_know_are_named() {
    play(async {
        let (world, authority, files) = (World::new().await, Authority::new(), Scratch::new());
        let secure = Secure::start(&world.server, &authority).await;
        let path = kubeconfig(&files.0, &secure.url(), Some(&authority.pem), json!({ "token": "unknown" }));
        let mut world = follow(world, &path).await;
        let why = world.until_failing().await;
        assert!(why.contains("Unauthorized (401)"), "{why}");
        let other = Authority::new();
        let path = kubeconfig(&files.0, &secure.url(), Some(&other.pem), json!({ "token": "unknown" }));
        let mut world = follow(world, &path).await;
        let why = world.until_failing().await;
        assert!(why.to_lowercase().contains("certificate"), "{why}");
    });
}

/// As kubelets do it: a new token stands in the file long before the server refuses the old one. The client looks once a
/// minute, so this waits for as long.
#[test]
fn a_token_that_is_replaced_in_its_file_is_read_again() {
    play(async {
        let (world, authority, files) = (World::new().await, Authority::new(), Scratch::new());
        fill(&world);
        let secure = Secure::start(&world.server, &authority).await;
        secure.tokens.lock().unwrap().insert("first".to_owned());
        let token = files.0.join("token");
        std::fs::write(&token, "first").unwrap();
        let path = kubeconfig(&files.0, &secure.url(), Some(&authority.pem), json!({ "tokenFile": token }));
        let mut world = follow(world, &path).await;
        world.until_watched().await;
        std::fs::write(&token, "second").unwrap();
        let begun = Instant::now();
        *secure.tokens.lock().unwrap() = ["second".to_owned()].into();
        while begun.elapsed() < Duration::from_secs(70) {
            world.server.cut_watches(false);
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.server.store().put(NODES, node("b", begun.elapsed().as_secs() as u8 + 2));
            world.hear(Duration::from_secs(1)).await;
            if matches!(world.reach, Some(Reach::Connected { .. })) && begun.elapsed() > Duration::from_secs(4) {
                break;
            }
        }
        world.until_same().await;
        world.until_connected().await;
        assert!(begun.elapsed() > Duration::from_secs(4), "the old token was refused meanwhile");
    });
}

/// In a process with mounts of its own, where the service account's files are those of the test.
#[test]
fn a_pod_finds_its_server_and_its_account() {
    play(async {
        let (world, authority, files) = (World::new().await, Authority::new(), Scratch::new());
        fill(&world);
        let secure = Secure::start(&world.server, &authority).await;
        secure.tokens.lock().unwrap().insert("of-the-pod".to_owned());
        for (name, text) in [("ca.crt", authority.pem.as_str()), ("token", "of-the-pod"), ("namespace", "kube-system")]
        {
            std::fs::write(files.0.join(name), text).unwrap();
        }
        let from = files.0.display();
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p {SERVICE_ACCOUNT} && mount --bind {from} {SERVICE_ACCOUNT} && exec \"$0\" --exact secure::in_a_pod --nocapture"
        );
        let mut child = Command::new("unshare");
        child.args(["--mount", "sh", "-c", &script]).arg(std::env::current_exe().unwrap()).env(IN_POD, "6");
        child.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", secure.port.to_string());
        let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("read 6 objects as a pod"), "{text}{output:?}");
    });
}

#[test]
fn in_a_pod() {
    let Ok(count) = std::env::var(IN_POD) else { return };
    play(async {
        let (server, state_dir) = (kube::Server::of_pod(None).unwrap(), Scratch::new());
        let mut cluster = Cluster::follow(server, timing(), &state_dir.0, None).unwrap();
        let mut objects = 0;
        while objects < count.parse().unwrap() {
            let update = cluster.next().await;
            assert!(!matches!(update.reach, Reach::Failing { .. }), "{:?}", update.reach);
            objects += update.changes.len();
        }
        println!("read {objects} objects as a pod");
    });
}
