//! A real kube-apiserver with its etcd, both found on PATH, on loopback and in a directory that goes with them. Whoever
//! may do everything there is `admin`; `fairway` is the account of control/deploy/fairway.yaml, with what that grants.

use control::kube;
use http::Request;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(120);
const RBAC: &str = include_str!("../../deploy/fairway.yaml");
const TOKENS: &str = "admin,admin,admin,system:masters\n\
    fairway,system:serviceaccount:kube-system:fairway,fairway\n\
    nobody,nobody,nobody\n";

pub struct Server {
    directory: PathBuf,
    etcd: Child,
    etcd_port: u16,
    api: Option<Child>,
    pub port: u16,
    /// Another one beside it, by which the cluster changes while the first is gone.
    other: Option<Child>,
    admin: ::kube::Client,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn log(directory: &Path, name: &str) -> Stdio {
    Stdio::from(std::fs::File::create(directory.join(name)).unwrap())
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in [Some(&mut self.etcd), self.api.as_mut(), self.other.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            return eprintln!("the servers' logs are in {}", self.directory.display());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Server {
    pub async fn start(name: &str) -> Server {
        let directory = std::env::temp_dir().join(format!("fairway-cluster-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("tokens.csv"), TOKENS).unwrap();
        let mut key = Command::new("openssl");
        key.args(["genrsa", "-out"]).arg(directory.join("account.key")).arg("2048").stderr(Stdio::null());
        assert!(key.status().unwrap().success());
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let [client, peer] = [etcd_port, peer_port].map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(directory.join("etcd")).args(["--listen-client-urls", &client]);
        etcd.args([
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]).stdout(Stdio::null());
        let etcd = etcd.stderr(log(&directory, "etcd.log")).spawn().unwrap();
        let api = Some(run_api(&directory, etcd_port, port));
        wait_for_certificate(&directory);
        let admin = client_of(&directory, port, "admin").await;
        let server = Server { directory, etcd, etcd_port, api, port, other: None, admin };
        server.until_ready().await;
        server
    }

    async fn until_ready(&self) {
        let begun = Instant::now();
        loop {
            let request = Request::get("/readyz").body(Vec::new()).unwrap();
            match self.admin.request_text(request).await {
                Ok(text) if text == "ok" => return,
                other => assert!(begun.elapsed() < START_LIMIT, "kube-apiserver is not ready: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    pub fn stop(&mut self) {
        let mut child = self.api.take().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    pub async fn start_again(&mut self) {
        self.api = Some(run_api(&self.directory, self.etcd_port, self.port));
        self.until_ready().await;
    }

    /// By another server on the same etcd, while ours is gone.
    pub async fn meanwhile(&mut self) -> ::kube::Client {
        let port = free_port();
        self.other = Some(run_api(&self.directory, self.etcd_port, port));
        let client = client_of(&self.directory, port, "admin").await;
        let begun = Instant::now();
        while client.request_text(Request::get("/readyz").body(Vec::new()).unwrap()).await.is_err() {
            assert!(begun.elapsed() < START_LIMIT, "the other kube-apiserver is not ready");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        client
    }

    pub fn end_meanwhile(&mut self) {
        if let Some(mut child) = self.other.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// As a kubeconfig file says it.
    pub async fn as_user(&self, token: &str) -> kube::Server {
        kube::Server::of_kubeconfig(&kubeconfig(&self.directory, self.port, token), None).await.unwrap()
    }

    pub fn admin(&self) -> &::kube::Client {
        &self.admin
    }

    /// What its account may do, as the manifest says.
    pub async fn install_rbac(&self) {
        for text in RBAC.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(text).unwrap();
            let is_of_roles =
                object["apiVersion"] == "rbac.authorization.k8s.io/v1" || object["kind"] == "ServiceAccount";
            if is_of_roles {
                put(&self.admin, &object).await;
            }
        }
    }

    /// Servers before 1.21 have them by an older version alone.
    pub async fn has_slices(&self) -> bool {
        get(&self.admin, "/apis/discovery.k8s.io/v1").await.is_ok_and(|group| group["resources"].is_array())
    }
}

fn run_api(directory: &Path, etcd_port: u16, port: u16) -> Child {
    let key = directory.join("account.key").display().to_string();
    let mut command = Command::new("kube-apiserver");
    command.arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}")).arg(format!("--secure-port={port}"));
    command.arg(format!("--cert-dir={}", directory.join("certs").display()));
    command.arg(format!("--token-auth-file={}", directory.join("tokens.csv").display()));
    command.arg(format!("--service-account-key-file={key}")).arg(format!("--service-account-signing-key-file={key}"));
    command.args(["--service-account-issuer=https://fairway.test", "--disable-admission-plugins=ServiceAccount"]);
    command.args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"]);
    command.args(["--authorization-mode=RBAC", "--service-cluster-ip-range=172.30.0.0/16", "--allow-privileged"]);
    command.stdout(Stdio::null()).stderr(log(directory, &format!("api-{port}.log"))).spawn().unwrap()
}

/// It makes one for itself where there is none.
fn wait_for_certificate(directory: &Path) {
    let (path, begun) = (directory.join("certs/apiserver.crt"), Instant::now());
    while !path.exists() {
        assert!(begun.elapsed() < START_LIMIT, "kube-apiserver makes no certificate: see {}", directory.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn kubeconfig(directory: &Path, port: u16, token: &str) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster":
            { "server": format!("https://127.0.0.1:{port}"), "certificate-authority": "certs/apiserver.crt" } }],
        "users": [{ "name": "u", "user": { "token": token } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let path = directory.join(format!("kubeconfig-{token}-{port}"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

async fn client_of(directory: &Path, port: u16, token: &str) -> ::kube::Client {
    let server = kube::Server::of_kubeconfig(&kubeconfig(directory, port, token), None).await.unwrap();
    server.client(&kube::Timing::default()).unwrap()
}

/// Where an object is, and where those of its kind are.
pub fn path(object: &Value) -> (String, String) {
    let version = object["apiVersion"].as_str().unwrap();
    let group = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let kind = object["kind"].as_str().unwrap().to_ascii_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let within = object["metadata"]["namespace"].as_str().map_or_else(String::new, |n| format!("/namespaces/{n}"));
    let all = format!("{group}{within}/{plural}");
    (format!("{all}/{}", object["metadata"]["name"].as_str().unwrap()), all)
}

pub async fn get(client: &::kube::Client, path: &str) -> ::kube::Result<Value> {
    client.request(Request::get(path).body(Vec::new()).unwrap()).await
}

/// Makes it, or makes it so; its status, too.
pub async fn put(client: &::kube::Client, object: &Value) {
    let (path, _) = path(object);
    for suffix in ["", "/status"].into_iter().take(1 + object["status"].is_object() as usize) {
        let request = Request::patch(format!("{path}{suffix}?fieldManager=tests&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(object.to_string().into_bytes());
        let done: ::kube::Result<Value> = client.request(request.unwrap()).await;
        done.unwrap_or_else(|error| panic!("{path}{suffix}: {error}"));
    }
}

pub async fn delete(client: &::kube::Client, object: &Value) {
    let (path, _) = path(object);
    let request = Request::delete(format!("{path}?gracePeriodSeconds=0")).body(Vec::new()).unwrap();
    let _: Value = client.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
}
