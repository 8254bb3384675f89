//! The admin API over its socket, with an owner loop that owns nothing: who may listen, what is answered, what the client says.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use lb_userspace::{
    api::{
        OPENAPI,
        client::{Client, ClientError},
        flows::FlowQuery,
        server::ROUTES,
        socket::{Socket, SocketError},
    },
    daemon::command::{Handle, Reloaded},
};
use serde_json::{Value, json};
use support::{Daemon, Directory, status};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// (status code, headers in lower case, body), by no HTTP library.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let code = head.split(' ').nth(1).expect("a status code");
    (
        code.parse().expect("a number"),
        head.to_lowercase(),
        body.to_owned(),
    )
}

fn error(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("an error is JSON");
    body["error"].as_str().expect("with its text").to_owned()
}

fn stop(socket: &Path, daemon: Daemon) -> Vec<String> {
    let (code, _, body) = request(socket, "POST", "/v1/stop", r#"{"keep":false}"#);
    assert_eq!((code, body.as_str()), (200, r#"{"keep":false}"#));
    daemon.heard()
}

#[test]
fn every_route_answers_as_the_openapi_document_says() {
    let directory = Directory::new("routes");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));

    let (code, head, body) = request(&socket, "GET", "/v1/openapi.json", "");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, OPENAPI);

    let (code, head, body) = request(&socket, "GET", "/v1/status", "");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body, serde_json::to_value(status()).expect("JSON"));

    let (code, head, body) = request(&socket, "GET", "/metrics", "");
    assert_eq!(code, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert_eq!(body, include_str!("data/metrics.txt"));

    let (code, _, body) = request(&socket, "POST", "/v1/reload", "");
    assert_eq!(code, 200);
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        body,
        json!({"added": [], "removed": [], "changed": [], "notes": []})
    );

    let drain = r#"{"service":"web","backend":"10.0.0.1:80","deadline_s":5}"#;
    let (code, _, body) = request(&socket, "POST", "/v1/drain", drain);
    assert_eq!((code, body.as_str()), (200, drain));
    let (code, _, body) = request(&socket, "POST", "/v1/drain", r#"{"service":"web"}"#);
    assert_eq!(code, 400);
    assert!(error(&body).contains("missing field `backend`"), "{body}");
    let undrain = r#"{"service":"web","backend":"a"}"#;
    let (code, _, body) = request(&socket, "POST", "/v1/undrain", undrain);
    assert_eq!((code, error(&body).as_str()), (409, "it is not drained"));

    let heard = stop(&socket, daemon);
    assert_eq!(heard[..3], ["status", "status", "reload"]);
    assert!(heard[3].starts_with("Drain {"), "{heard:?}");
    assert!(heard[4].starts_with("Undrain {"), "{heard:?}");
    assert_eq!(heard[5..], ["stop keep=false"]);
    assert!(!socket.exists(), "the socket goes with its daemon");
}

#[test]
fn flows_come_as_a_stream_of_lines() {
    let directory = Directory::new("flows");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));
    block_on(async {
        let client = Client::new(&socket);
        let read = async |query: FlowQuery| {
            let (mut text, mut chunks) = (Vec::new(), 0);
            let take = |chunk: &[u8]| {
                chunks += 1;
                text.extend_from_slice(chunk);
                Ok(())
            };
            client.flows(&query, take).await.map(|()| {
                let lines = text.split(|byte| *byte == b'\n');
                let lines: Vec<Value> = lines
                    .filter(|line| !line.is_empty())
                    .map(|line| serde_json::from_slice(line).expect("a line of JSON"))
                    .collect();
                (lines, chunks)
            })
        };
        let (lines, chunks) = read(FlowQuery::default()).await.expect("flows");
        let clients: std::collections::BTreeSet<_> = lines
            .iter()
            .map(|line| line["client"].to_string())
            .collect();
        assert_eq!(clients.len(), support::FLOWS as usize);
        assert_eq!(lines.len(), clients.len());
        assert!(chunks > 10, "{chunks}");
        let example = json!({"service": "web", "protocol": "tcp", "vip": "192.0.2.10:80",
            "client": lines[0]["client"], "backend": "10.0.0.1:8080", "state": "established", "idle_s": 5});
        assert_eq!(lines[0], example);

        let limit = FlowQuery {
            limit: Some(3),
            ..FlowQuery::default()
        };
        assert_eq!(read(limit).await.expect("flows").0.len(), 3);
        let one = FlowQuery {
            client: Some([198, 51, 100, 1].into()),
            ..FlowQuery::default()
        };
        let count = client.count_flows(&one).await.expect("a count");
        assert_eq!(count.services[0].total, u64::from(support::FLOWS) - 16_384);
        let stranger = FlowQuery {
            service: Some("x y".to_owned()),
            ..FlowQuery::default()
        };
        let error = read(stranger).await.expect_err("none");
        assert_eq!(
            error.to_string(),
            "there is no such service; there are: web"
        );
    });
    let (code, _, body) = request(&socket, "GET", "/v1/flows?stat=udp", "");
    assert_eq!(code, 400);
    assert!(error(&body).contains("unknown field `stat`"), "{body}");
    let heard = stop(&socket, daemon);
    assert_eq!(heard[3], "flows?service=x%20y");
}

/// Who reads only the beginning does not hold the daemon up.
#[test]
fn a_reader_that_goes_away_ends_the_stream() {
    let directory = Directory::new("gone");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));
    let mut stream = UnixStream::connect(&socket).expect("the daemon listens");
    write!(stream, "GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut some = [0; 1000];
    stream.read_exact(&mut some).expect("it answers");
    drop(stream);
    assert_eq!(stop(&socket, daemon), ["flows", "stop keep=false"]);
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let directory = Directory::new("not-found");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));

    let (code, _, body) = request(&socket, "GET", "/v2/status", "");
    assert_eq!(code, 404);
    let text = error(&body);
    assert!(text.starts_with("there is no /v2/status; "), "{text}");
    for route in ROUTES {
        let name = format!("{} {}", route.method, route.path);
        assert!(text.contains(&name), "{name} in {text}");
    }

    let (code, head, body) = request(&socket, "GET", "/v1/stop", "");
    assert_eq!(code, 405);
    assert!(head.contains("allow: post"), "{head}");
    assert_eq!(error(&body), "/v1/stop does not take GET; use POST");

    assert_eq!(stop(&socket, daemon), ["stop keep=false"]);
}

#[test]
fn a_bad_body_names_the_field_and_stops_nothing() {
    let directory = Directory::new("bad-body");
    let socket = directory.path("futago.sock");
    let daemon = Daemon::start(&socket, Ok(Reloaded::default()));
    for (body, named) in [
        ("", "EOF"),
        ("{}", "missing field `keep`"),
        (r#"{"keep":"yes"}"#, "keep: invalid type"),
        (r#"{"keep":true,"now":1}"#, "unknown field `now`"),
        ("keep", "expected"),
    ] {
        let (code, _, answer) = request(&socket, "POST", "/v1/stop", body);
        assert_eq!(code, 400, "{body}");
        let text = error(&answer);
        assert!(text.contains(named), "{body}: {text}");
        assert!(text.contains(r#"send {"keep": true}"#), "{body}: {text}");
    }
    assert_eq!(stop(&socket, daemon), ["stop keep=false"]);
}

#[test]
fn an_owner_loop_that_has_ended_is_503() {
    let directory = Directory::new("stopping");
    let socket = directory.path("futago.sock");
    let text = block_on(async {
        let bound = Socket::bind(&socket).await.expect("free");
        let (handle, commands) = Handle::new();
        let client = Client::new(&socket);
        // The owner loop hears the question and ends without an answer.
        let owner = async move {
            let mut commands = commands;
            drop(commands.recv().await);
        };
        let (served, answer, ()) = tokio::join!(bound.serve(handle), client.status(), owner);
        served.expect("it ends by itself");
        match answer {
            Err(ClientError::Refused { status, message }) => format!("{status}: {message}"),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(text, "503 Service Unavailable: the daemon is stopping");
}

#[test]
fn the_client_asks_what_it_says() {
    let directory = Directory::new("client");
    let socket = directory.path("futago.sock");
    let mistakes = "error: unknown key `vipp`\n --> futago.toml:3:1".to_owned();
    let daemon = Daemon::start(&socket, Err(mistakes.clone()));
    block_on(async {
        let client = Client::new(&socket);
        let heard = client.status().await.expect("a status");
        assert_eq!(
            serde_json::to_value(heard).expect("JSON"),
            serde_json::to_value(status()).expect("JSON")
        );
        match client.reload().await {
            Err(ClientError::Refused { status, message }) => {
                assert_eq!((status.as_u16(), message), (422, mistakes));
            }
            other => panic!("{other:?}"),
        }
        client.stop(true).await.expect("it stops");
    });
    assert_eq!(daemon.heard(), ["status", "reload", "stop keep=true"]);
}

#[test]
fn without_a_daemon_the_client_says_how_to_start_one() {
    let directory = Directory::new("no-daemon");
    let socket = directory.path("futago.sock");
    let ask = || block_on(Client::new(&socket).status()).expect_err("nobody answers");
    let expected = format!(
        "no daemon listens at {}: start it with `futago run --config FILE --node NAME`, or name its socket with --socket",
        socket.display()
    );
    assert_eq!(ask().to_string(), expected);
    // The socket of a dead daemon is none.
    drop(UnixListener::bind(&socket).expect("free"));
    assert!(socket.exists());
    assert_eq!(ask().to_string(), expected);
}

#[test]
fn who_does_not_speak_http_is_no_futago() {
    let directory = Directory::new("stranger");
    let socket = directory.path("futago.sock");
    let listener = UnixListener::bind(&socket).expect("free");
    let stranger = std::thread::spawn(move || {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"] {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut question = [0; 512];
            let _ = stream.read(&mut question);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    block_on(async {
        let client = Client::new(&socket);
        let broken = client.status().await.expect_err("no answer");
        assert!(matches!(broken, ClientError::Broken { .. }), "{broken}");
        let odd = client.status().await.expect_err("no status");
        assert!(matches!(odd, ClientError::NotUnderstood { .. }), "{odd}");
    });
    stranger.join().expect("it ends");
}

#[test]
fn only_its_user_may_connect() {
    let directory = Directory::new("mode");
    let socket = directory.path("made/for/it/futago.sock");
    block_on(async {
        let bound = Socket::bind(&socket).await.expect("free");
        let mode = fs::symlink_metadata(bound.path())
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
    });
    assert!(!socket.exists(), "the socket goes with its owner");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new("stale");
    let socket = directory.path("futago.sock");
    drop(UnixListener::bind(&socket).expect("free"));
    block_on(async {
        let bound = Socket::bind(&socket)
            .await
            .expect("a stale socket is replaced");
        let second = Socket::bind(&socket).await.expect_err("it lives");
        assert!(
            second.to_string().starts_with("another futago is running"),
            "{second}"
        );
        assert!(socket.exists(), "the refused one takes nothing away");
        drop(bound);
        Socket::bind(&socket).await.expect("it is free again");
    });
}

#[test]
fn what_another_program_has_at_the_path_is_left_alone() {
    let directory = Directory::new("foreign");
    let socket = directory.path("futago.sock");
    let listener = UnixListener::bind(&socket).expect("free");
    let refused = block_on(Socket::bind(&socket)).expect_err("it lives");
    assert!(
        matches!(refused, SocketError::AlreadyRunning { .. }),
        "{refused}"
    );
    drop(listener);

    let file = directory.path("file");
    fs::write(&file, "precious").expect("writable");
    let refused = block_on(Socket::bind(&file)).expect_err("no socket");
    assert!(
        matches!(refused, SocketError::NotASocket { .. }),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
}

#[test]
fn the_openapi_document_has_every_route_and_no_other() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let mut described: Vec<_> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            methods.iter().map(move |(method, operation)| {
                let summary = operation["summary"].as_str().expect("a summary");
                (method.to_uppercase(), path.clone(), summary.to_owned())
            })
        })
        .collect();
    let mut served: Vec<_> = ROUTES
        .iter()
        .map(|r| {
            (
                r.method.to_string(),
                r.path.to_owned(),
                r.summary.to_owned(),
            )
        })
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

#[test]
fn the_openapi_schemas_have_the_fields_that_are_sent() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let status = serde_json::to_value(status()).expect("JSON");
    for (schema, value) in [
        ("Status", &status),
        ("Interface", &status["interfaces"][0]),
        ("Service", &status["services"][0]),
        ("Backend", &status["services"][0]["backends"][0]),
        ("Reason", &status["reasons"][0]),
        (
            "Reloaded",
            &serde_json::to_value(Reloaded::default()).expect("JSON"),
        ),
        ("Stop", &json!({"keep": true})),
        (
            "Drained",
            &json!({"service": "", "backend": "", "deadline_s": 1}),
        ),
        ("Undrain", &json!({"service": "", "backend": ""})),
        ("Error", &json!({"error": ""})),
    ] {
        let described = &document["components"]["schemas"][schema];
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().expect(schema).keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&described["properties"]), keys(value), "{schema}");
        let mut required: Vec<_> = described["required"]
            .as_array()
            .expect(schema)
            .iter()
            .map(|name| name.as_str().expect(schema).to_owned())
            .collect();
        required.sort();
        assert_eq!(required, keys(value), "{schema}");
    }
}
