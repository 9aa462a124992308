//! Single questions to the API server, for `fairway doctor`: nothing is followed.

use super::connect::{ConnectError, Server};
use super::decode;
use super::follow::told;
use super::timing::Timing;
use crate::object::{Kind, Node, Object};
use kube::Client;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::core::Request;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// For one answer: a person waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub struct Asker(Client);

type Answer<T> = Result<T, String>;

impl Asker {
    /// Must be called inside the runtime that uses it.
    pub fn new(server: &Server) -> Result<Asker, ConnectError> {
        server.client(&Timing { answer: ANSWER_LIMIT, ..Timing::default() }).map(Asker)
    }

    /// The server's version, and its time as HTTP has it.
    pub async fn version(&self) -> Answer<(String, Option<String>)> {
        let request = http::Request::get("/version").body(Body::empty()).map_err(|error| error.to_string())?;
        let response = in_time(self.0.send(request)).await?;
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let request = http::Request::get("/version").body(Vec::new()).map_err(|error| error.to_string())?;
        let version: Value = in_time(self.0.request(request)).await?;
        Ok((version["gitVersion"].as_str().unwrap_or("unknown").to_owned(), date))
    }

    /// Whether a SelfSubjectAccessReview is granted.
    pub async fn may(&self, review: Value) -> Answer<bool> {
        let reviews = Request::new("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        let request = reviews.create(&PostParams::default(), review.to_string().into_bytes());
        let answer: Value = in_time(self.0.request(request.map_err(|error| error.to_string())?)).await?;
        Ok(answer["status"]["allowed"] == true)
    }

    pub async fn nodes(&self) -> Answer<Vec<Node>> {
        let request = Request::new("/api/v1/nodes").list(&ListParams::default()).map_err(|error| error.to_string())?;
        let text = in_time(self.0.request_text(request)).await?;
        let page = decode::page(Kind::Node, &text).map_err(|error| error.to_string())?;
        let node = |object| if let Object::Node(node) = object { Some(node) } else { None };
        Ok(page.items.into_iter().filter_map(|item| item.object.and_then(node)).collect())
    }
}

async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> Answer<T> {
    let answer = timeout(ANSWER_LIMIT, answer).await;
    answer.map_err(|_| "it does not answer in time".to_owned())?.map_err(|error| told(&error))
}
