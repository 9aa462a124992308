//! /metrics, /healthz and /readyz for Prometheus and probes.

use crate::api::{Reply, Request};
use crate::serve::Requests;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub async fn run(listener: TcpListener, requests: Requests) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(requests);
    serve(listener, router).await
}

async fn ask(requests: &Requests, request: Request) -> Option<Reply> {
    let (to, reply) = oneshot::channel();
    requests.send((request, to)).await.ok()?;
    reply.await.ok()
}

async fn metrics(State(requests): State<Requests>) -> impl IntoResponse {
    match ask(&requests, Request::Metrics).await {
        Some(Reply::Done(serde_json::Value::String(text))) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text)
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "text/plain")], "stopping\n".to_owned()),
    }
}

/// The loop answers at all.
async fn healthz(State(requests): State<Requests>) -> impl IntoResponse {
    answer(ask(&requests, Request::Status).await.map(|_| Reply::Done(().into())))
}

/// The dataplane is connected and has tables.
async fn readyz(State(requests): State<Requests>) -> impl IntoResponse {
    answer(ask(&requests, Request::Ready).await)
}

fn answer(reply: Option<Reply>) -> (StatusCode, String) {
    match reply {
        Some(Reply::Done(_)) => (StatusCode::OK, "ok\n".to_owned()),
        Some(Reply::Failed(failure)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
    }
}
