//! The backend accepts a connection.

use std::{io::ErrorKind, net::SocketAddr};

use lb_core::health::Outcome;
use tokio::net::TcpStream;

/// Connects and closes at once with a reset, so that neither side keeps a closing connection for each probe.
pub async fn connect(target: SocketAddr) -> Outcome {
    match TcpStream::connect(target).await {
        Ok(stream) => {
            // Failing here is not the backend's fault; the connection then closes in the ordinary way.
            let _ = stream.set_zero_linger();
            Outcome::Success
        }
        Err(error) => Outcome::Failure(match error.kind() {
            ErrorKind::ConnectionRefused => format!("connection to {target} refused"),
            ErrorKind::HostUnreachable => format!("{target} is unreachable"),
            ErrorKind::NetworkUnreachable => format!("no route to {target}"),
            _ => format!("connection to {target} failed: {error}"),
        }),
    }
}
