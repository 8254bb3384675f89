//! What the daemon answers on its socket. Every answer comes from the owner loop; nothing is kept here.

use std::{future::Future, io, path::Path, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use tokio::sync::watch;

use super::{
    ErrorBody, OPENAPI, Stop, metrics,
    socket::{Socket, SocketError},
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
    handler: fn() -> MethodRouter<Api>,
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

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the admin API has failed: {0}")]
    Io(#[from] io::Error),
}

/// [`Socket::bind`], then [`Socket::serve`].
pub fn serve(
    path: impl AsRef<Path>,
    handle: Handle,
) -> impl Future<Output = Result<(), ServeError>> {
    async move { Ok(Socket::bind(path).await?.serve(handle).await?) }
}

impl Socket {
    /// Answers until a client's `stop` has been carried out and answered; who ends the process after that waits for this
    /// first, at most a second. Otherwise it ends by being dropped, which removes the socket.
    pub async fn serve(self, handle: Handle) -> io::Result<()> {
        let (stopped, _) = watch::channel(false);
        let api = Api {
            handle,
            stopped: stopped.clone(),
        };
        let (listener, _claim) = self.into_parts();
        let wait = |mut changes: watch::Receiver<bool>| async move {
            // An error means that the sender is gone; `stopped` lives until the end of this function.
            let _ = changes.wait_for(|stopped| *stopped).await;
        };
        let server =
            axum::serve(listener, router(api)).with_graceful_shutdown(wait(stopped.subscribe()));
        let too_long = async {
            wait(stopped.subscribe()).await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            result = server => result,
            () = too_long => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Api {
    handle: Handle,
    /// Becomes true when a `stop` has been carried out.
    stopped: watch::Sender<bool>,
}

fn router(api: Api) -> Router {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn status(State(api): State<Api>) -> Result<Json<Status>, Failure> {
    Ok(Json(api.handle.status().await?))
}

async fn reload(State(api): State<Api>) -> Result<Json<Reloaded>, Failure> {
    match api.handle.reload().await? {
        Ok(reloaded) => Ok(Json(reloaded)),
        Err(error) => Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, error)),
    }
}

async fn stop(State(api): State<Api>, body: Bytes) -> Result<Json<Stop>, Failure> {
    let Json(stop) = Json::<Stop>::from_bytes(&body).map_err(|rejection| {
        Failure(
            StatusCode::BAD_REQUEST,
            format!(
                "{}; send {{\"keep\": true}} or {{\"keep\": false}}",
                rejection.body_text()
            ),
        )
    })?;
    api.handle.stop(stop.keep).await?;
    api.stopped.send_replace(true);
    Ok(Json(stop))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn prometheus(State(api): State<Api>) -> Result<Response, Failure> {
    let text = metrics::render(&api.handle.status().await?);
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
