//! The Kubernetes objects of the lab as a user would write them.
//!
//! Text in, text out: which file they go to and when is the caller's.

use std::net::IpAddr;

/// The namespace that all pods of the lab live in.
pub const NAMESPACE: &str = "demo";

pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    kubernetes.io/metadata.name: {name}
"
    )
}

pub fn node(name: &str, address: IpAddr, pod_range: &str) -> String {
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: {name}
  labels:
    kubernetes.io/hostname: {name}
spec:
  podCIDR: {pod_range}
  podCIDRs:
  - {pod_range}
status:
  addresses:
  - type: InternalIP
    address: {address}
  - type: Hostname
    address: {name}
  conditions:
  - type: Ready
    status: \"True\"
"
    )
}

/// What a manifest says about a pod.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    pub name: &'a str,
    pub node: &'a str,
    pub labels: &'a [(String, String)],
    pub addresses: &'a [IpAddr],
}

pub fn pod(pod: &PodSpec) -> String {
    let PodSpec { name, node, labels, addresses } = pod;
    let labels: String = labels.iter().map(|(key, value)| format!("    {key}: {value}\n")).collect();
    let all: String = addresses.iter().map(|address| format!("  - ip: {address}\n")).collect();
    let first = addresses.first().map(|address| format!("  podIP: {address}\n  podIPs:\n{all}")).unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  namespace: {NAMESPACE}
  name: {name}
  labels:
    name: {name}
{labels}spec:
  nodeName: {node}
  containers:
  - name: main
    image: none
    ports:
    - name: http
      containerPort: 8080
status:
  phase: Running
{first}  conditions:
  - type: Ready
    status: \"True\"
"
    )
}

/// A ClusterIP service for the pods that carry one label: HTTP on 80, echo on 7 (TCP and UDP).
pub fn service(name: &str, address: IpAddr, label: (&str, &str)) -> String {
    let (key, value) = label;
    format!(
        "apiVersion: v1
kind: Service
metadata:
  namespace: {NAMESPACE}
  name: {name}
spec:
  type: ClusterIP
  clusterIP: {address}
  clusterIPs:
  - {address}
  selector:
    {key}: {value}
  ports:
  - name: http
    protocol: TCP
    port: 80
    targetPort: 8080
  - name: echo
    protocol: TCP
    port: 7
    targetPort: 7777
  - name: echo-udp
    protocol: UDP
    port: 7
    targetPort: 7777
"
    )
}

/// Only pods labelled `role: friend` may open connections to pods labelled `app: web`.
pub fn friends_only(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  namespace: {NAMESPACE}
  name: {name}
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          role: friend
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_names_its_node_labels_and_addresses() {
        let labels = [("app".to_string(), "web".to_string())];
        let addresses = ["10.244.1.4".parse().unwrap()];
        let text = pod(&PodSpec { name: "web-1", node: "node-1", labels: &labels, addresses: &addresses });
        assert!(text.contains("    app: web\nspec:\n  nodeName: node-1\n"), "{text}");
        assert!(text.contains("  podIP: 10.244.1.4\n  podIPs:\n  - ip: 10.244.1.4\n  conditions:"), "{text}");
    }

    #[test]
    fn a_pod_without_an_address_says_none() {
        let text = pod(&PodSpec { name: "a", node: "n", labels: &[], addresses: &[] });
        assert!(text.contains("phase: Running\n  conditions:"), "{text}");
    }
}
