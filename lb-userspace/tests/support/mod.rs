//! A daemon that answers with what the test tells it: the API in front of an owner loop that owns nothing.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use lb_userspace::{
    api::{Drained, socket::Socket, status::Status},
    daemon::command::{Command, Handle, Reloaded},
};

/// The status that the golden texts were made of.
pub fn status() -> Status {
    serde_json::from_str(include_str!("../data/status.json")).expect("a status")
}

/// A directory for one test, gone when the test ends.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("futago-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs in a thread of its own until it is stopped through the API.
pub struct Daemon {
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Daemon {
    /// Listens when this returns. `reload`: the answer to reloads.
    pub fn start(socket: &Path, reload: Result<Reloaded, String>) -> Self {
        let (ready, listens) = mpsc::channel();
        let path = socket.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let socket = Socket::bind(&path).await.expect("the socket is free");
                let (handle, mut commands) = Handle::new();
                ready.send(()).expect("the test waits");
                let owner = async {
                    let mut heard = Vec::new();
                    while let Some(command) = commands.recv().await {
                        match command {
                            Command::Status(answer) => {
                                heard.push("status".to_owned());
                                let _ = answer.send(status());
                            }
                            Command::Reload(answer) => {
                                heard.push("reload".to_owned());
                                let _ = answer.send(reload.clone());
                            }
                            Command::Failover { to, answer } => {
                                heard.push(format!("failover to={to:?}"));
                                let _ = answer.send(Ok(()));
                            }
                            Command::Drain { request, answer } => {
                                heard.push(format!("{request:?}"));
                                let _ = answer.send(Ok(Drained {
                                    service: request.service,
                                    backend: request.backend,
                                    deadline_s: request.deadline_s,
                                }));
                            }
                            Command::Undrain { request, answer } => {
                                heard.push(format!("{request:?}"));
                                let _ = answer.send(Err("it is not drained".to_owned()));
                            }
                            Command::Stop { keep, done } => {
                                heard.push(format!("stop keep={keep}"));
                                drop(commands);
                                let _ = done.send(Ok(()));
                                break;
                            }
                        }
                    }
                    heard
                };
                let (heard, served) = tokio::join!(owner, socket.serve(handle));
                served.expect("the API serves");
                heard
            })
        });
        listens.recv().expect("the daemon starts");
        Self {
            thread: Some(thread),
        }
    }

    /// After a stop: what it was asked.
    pub fn heard(mut self) -> Vec<String> {
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("the daemon does not panic")
    }
}
