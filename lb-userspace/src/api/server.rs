//! What the daemon answers on its socket. Every answer comes from the owner loop; nothing is kept here.

use std::{io, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State, rejection::QueryRejection},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use lb_core::flows::Count;
use serde::de::DeserializeOwned;

use super::{
    Drain, Drained, ErrorBody, Failover, OPENAPI, Stop, Undrain,
    flows::{FlowQuery, View},
    metrics,
    socket::Socket,
    status::Status,
};
use crate::daemon::command::{Handle, Reloaded, Stopping};

/// How long a stopping daemon waits for clients that do not read their answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// One thing that can be asked.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    /// One line for people.
    pub summary: &'static str,
    handler: fn() -> MethodRouter<Handle>,
}

/// All of them; the router, the text of "not found", and the docs are made of this list.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/status",
        summary: "the state of the node, its services and backends",
        handler: || get(status),
    },
    Route {
        method: Method::POST,
        path: "/v1/reload",
        summary: "read the configuration file again and apply the difference, or nothing",
        handler: || post(reload),
    },
    Route {
        method: Method::POST,
        path: "/v1/failover",
        summary: "hand the virtual routers over to another node",
        handler: || post(failover),
    },
    Route {
        method: Method::POST,
        path: "/v1/drain",
        summary: "send no new connections to a backend",
        handler: || post(drain),
    },
    Route {
        method: Method::POST,
        path: "/v1/undrain",
        summary: "end a drain",
        handler: || post(undrain),
    },
    Route {
        method: Method::GET,
        path: "/v1/flows",
        summary: "the recorded flows, a JSON object each line",
        handler: || get(list_flows),
    },
    Route {
        method: Method::GET,
        path: "/v1/flows/count",
        summary: "how many flows each service and backend has",
        handler: || get(count_flows),
    },
    Route {
        method: Method::POST,
        path: "/v1/stop",
        summary: "end the daemon; `keep` leaves the kernel forwarding",
        handler: || post(stop),
    },
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        summary: "this API as an OpenAPI 3.1 document",
        handler: || get(openapi),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        summary: "counters and states for Prometheus",
        handler: || get(prometheus),
    },
];

impl Socket {
    /// Answers until the owner loop has ended, and then the questions that are under way, for a second at most: who ends the
    /// process waits for this, or the client that asked for the stop gets no answer. The socket goes with it.
    pub async fn serve(self, handle: Handle) -> io::Result<()> {
        let (listener, _claim) = self.into_parts();
        let ended = |handle: Handle| async move { handle.ended().await };
        let server = axum::serve(listener, router(handle.clone()))
            .with_graceful_shutdown(ended(handle.clone()));
        let too_long = async {
            ended(handle).await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            result = server => result,
            () = too_long => Ok(()),
        }
    }
}

fn router(handle: Handle) -> Router {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(handle)
}

async fn status(State(handle): State<Handle>) -> Result<Json<Status>, Failure> {
    Ok(Json(handle.status().await?))
}

async fn reload(State(handle): State<Handle>) -> Result<Json<Reloaded>, Failure> {
    match handle.reload().await? {
        Ok(reloaded) => Ok(Json(reloaded)),
        Err(error) => Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, error)),
    }
}

async fn stop(State(handle): State<Handle>, body: Bytes) -> Result<Json<Stop>, Failure> {
    let Json(stop) = Json::<Stop>::from_bytes(&body).map_err(|rejection| {
        Failure(
            StatusCode::BAD_REQUEST,
            format!(
                "{}; send {{\"keep\": true}} or {{\"keep\": false}}",
                rejection.body_text()
            ),
        )
    })?;
    match handle.stop(stop.keep).await? {
        Ok(()) => Ok(Json(stop)),
        Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error)),
    }
}

async fn failover(State(handle): State<Handle>, body: Bytes) -> Result<Json<Failover>, Failure> {
    let Json(failover) = Json::<Failover>::from_bytes(&body).map_err(|rejection| {
        Failure(
            StatusCode::BAD_REQUEST,
            format!(
                "{}; send {{}} or {{\"to\": \"lb2\"}}",
                rejection.body_text()
            ),
        )
    })?;
    match handle.failover(failover.to.clone()).await? {
        Ok(()) => Ok(Json(failover)),
        Err(error) => Err(Failure(StatusCode::CONFLICT, error)),
    }
}

async fn drain(State(handle): State<Handle>, body: Bytes) -> Result<Json<Drained>, Failure> {
    let example = r#"{"service": "web", "backend": "10.0.0.11", "deadline_s": 300}"#;
    let request: Drain = described(&body, example)?;
    let outcome = handle.drain(request).await?;
    outcome
        .map(Json)
        .map_err(|error| Failure(StatusCode::CONFLICT, error))
}

async fn undrain(State(handle): State<Handle>, body: Bytes) -> Result<Json<Undrain>, Failure> {
    let example = r#"{"service": "web", "backend": "10.0.0.11"}"#;
    let request: Undrain = described(&body, example)?;
    let outcome = handle.undrain(request).await?;
    outcome
        .map(Json)
        .map_err(|error| Failure(StatusCode::CONFLICT, error))
}

async fn list_flows(
    State(handle): State<Handle>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let query = filter(query)?;
    let limit = query.limit;
    Ok(view(&handle, query).await?.stream(limit))
}

async fn count_flows(
    State(handle): State<Handle>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<Count>, Failure> {
    let view = view(&handle, filter(query)?).await?;
    let count = tokio::task::spawn_blocking(move || view.count()).await;
    count
        .map(Json)
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn filter(query: Result<Query<FlowQuery>, QueryRejection>) -> Result<FlowQuery, Failure> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| Failure(StatusCode::BAD_REQUEST, rejection.body_text()))
}

async fn view(handle: &Handle, query: FlowQuery) -> Result<View, Failure> {
    handle
        .flows(query)
        .await?
        .map_err(|error| Failure(StatusCode::NOT_FOUND, error))
}

/// The body, or what is wrong with it.
fn described<T: DeserializeOwned>(body: &Bytes, example: &str) -> Result<T, Failure> {
    Json::<T>::from_bytes(body)
        .map(|Json(body)| body)
        .map_err(|rejection| {
            let text = format!("{}; send {example}", rejection.body_text());
            Failure(StatusCode::BAD_REQUEST, text)
        })
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn prometheus(State(handle): State<Handle>) -> Result<Response, Failure> {
    let text = metrics::render(&handle.status().await?);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn not_found(uri: Uri) -> Failure {
    let routes: Vec<_> = ROUTES
        .iter()
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    Failure(
        StatusCode::NOT_FOUND,
        format!(
            "there is no {}; there are: {}",
            uri.path(),
            routes.join(", ")
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let methods: Vec<_> = ROUTES
        .iter()
        .filter(|route| route.path == uri.path())
        .map(|route| route.method.as_str())
        .collect();
    Failure(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "{} does not take {method}; use {}",
            uri.path(),
            methods.join(" or ")
        ),
    )
}

struct Failure(StatusCode, String);

impl From<Stopping> for Failure {
    fn from(stopping: Stopping) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, stopping.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        (status, Json(ErrorBody { error })).into_response()
    }
}
