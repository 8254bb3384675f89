//! A daemon that answers with what the test tells it: the API in front of an owner loop that owns nothing.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use lb_common::{
    address::Address,
    flow_state::State,
    flow_table::{Flags, Flow4, Flow6, FlowKey, HeapMemory, Layout, Table, Ticks, Value, WhenFull},
    rewrite::Endpoint,
    tracking::Tracker,
};
use lb_core::{
    flows::{Filter, FlowTables, Known},
    model::{BackendKey, Protocol, ServiceKey},
};
use lb_userspace::{
    api::{
        Drained,
        flows::{FlowQuery, View},
        socket::Socket,
        status::Status,
    },
    daemon::command::{Command, Handle, Reloaded},
};

/// The status that the golden texts were made of.
pub fn status() -> Status {
    serde_json::from_str(include_str!("../data/status.json")).expect("a status")
}

/// Flows of clients' ports 0 to `FLOWS` of one backend of the service "web"; no other service.
pub const FLOWS: u32 = 20_000;

fn flows(query: FlowQuery) -> Result<View, String> {
    if query.service.is_some_and(|name| name != "web") {
        return Err("there is no such service; there are: web".to_owned());
    }
    fn table<L: Layout>(sets: u32) -> Table<L, HeapMemory> {
        Table::new(HeapMemory::new::<L>(sets), sets - 1, 7)
    }
    let source = FlowTables {
        ipv4: Tracker {
            flows: table::<Flow4>(4096),
            half_open: table::<Flow4>(1),
        },
        ipv6: Tracker {
            flows: table::<Flow6>(1),
            half_open: table::<Flow6>(1),
        },
        snat_ipv4: None,
        snat_ipv6: None,
    };
    let end = |address, port| Endpoint {
        address: Address::from_v4(address),
        port,
    };
    for port in 0..FLOWS {
        let key = FlowKey {
            source: end([198, 51, 100, (port >> 14) as u8], port as u16),
            destination: end([192, 0, 2, 10], 80),
            protocol: 6,
        };
        let value = Value {
            seen: Ticks(0),
            backend: 1,
            state: State::Established as u8,
            flags: Flags::default(),
        };
        let _ = source
            .ipv4
            .flows
            .insert(&key.v4(), value, &[], WhenFull::Refuse);
    }
    let web = Known {
        name: "web".to_owned(),
        key: ServiceKey {
            vip: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            port: 80,
        },
        backends: vec![Some(BackendKey {
            address: [10, 0, 0, 1].into(),
            port: 8080,
        })],
    };
    let filter = Filter {
        client: query.client,
        state: query.state,
        ..Filter::default()
    };
    Ok(View {
        source: Box::new(source),
        directory: lb_core::flows::Directory::new(vec![web], filter),
        now: Ticks(5),
    })
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
                            Command::Flows { query, answer } => {
                                heard.push(format!("flows{}", query.to_uri()));
                                let _ = answer.send(flows(query));
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
