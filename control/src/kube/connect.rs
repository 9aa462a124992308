//! How the API server is reached: as a pod of the cluster, or by a kubeconfig file. A connection whose other end is gone
//! without a word is found by TCP keepalive.

use super::Timing;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tower::{Layer, ServiceExt};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent peer is asked after this, then so often and so many times.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Where the manifest puts everything; a pod knows its own.
const NAMESPACE: &str = "kube-system";

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("this is no pod with a service account: {0}; outside of a cluster give --kubeconfig")]
    NoPod(#[from] kube::config::InClusterError),
    #[error("cannot use {path}")]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("cannot connect to {server}: {source}")]
    Client { server: String, source: Box<kube::Error> },
}

/// An API server, and who we are to it.
#[derive(Clone, Debug)]
pub struct Server {
    config: Config,
    /// What is the cluster's own is there.
    namespace: String,
}

impl Server {
    /// As a pod of the cluster. `at` is where the server is, if not where the environment says: that is a service address,
    /// which on this node nobody serves before we do.
    pub fn of_pod(at: Option<http::Uri>) -> Result<Server, ConnectError> {
        let config = Config::incluster_env()?;
        Ok(Server { namespace: config.default_namespace.clone(), ..Server::new(config, at) })
    }

    pub async fn of_kubeconfig(path: &Path, at: Option<http::Uri>) -> Result<Server, ConnectError> {
        let wrong = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
        Ok(Server::new(config, at))
    }

    /// Without any proof of who we are, as tests do.
    pub fn plain(at: http::Uri) -> Server {
        Server::new(Config::new(at), None)
    }

    fn new(mut config: Config, at: Option<http::Uri>) -> Server {
        if let Some(at) = at {
            config.cluster_url = at;
        }
        Server { config, namespace: NAMESPACE.to_owned() }
    }

    pub fn namespace(&self) -> String {
        self.namespace.clone()
    }

    pub fn name(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// Must be called inside the runtime that uses it.
    pub fn client(&self, timing: &Timing) -> Result<Client, ConnectError> {
        let made = self.make(timing);
        made.map_err(|source| ConnectError::Client { server: self.name(), source: Box::new(source) })
    }

    fn make(&self, timing: &Timing) -> kube::Result<Client> {
        let Server { config, .. } = self;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timing.answer)));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        let tls = config.rustls_https_connector_with_connector(tcp)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(tls);
        let stack = http.map_err(tower::BoxError::from);
        let stack = config.extra_headers_layer()?.layer(stack);
        let stack = tower::util::option_layer(config.auth_layer()?).layer(stack);
        let stack = config.base_uri_layer().layer(stack);
        Ok(Client::new(stack, config.default_namespace.clone()))
    }
}
