//! How long a service was away: numbered probes at a fixed pace through the VIP to an [`Echo`](crate::server::Echo).
//!
//! Probes are sent at absolute times; a slot that this machine missed is skipped and counted as late, never made up for in a
//! burst, so that a loaded prober does not report losses that are its own.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::{Context, Error, Result},
    host::Host,
};

/// How long answers are waited for after the last probe.
const LINGER: Duration = Duration::from_millis(500);
const NUMBER_BYTES: usize = 8;

/// What a prober saw.
#[derive(Clone, Debug, Default)]
pub struct Gap {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// `sent - answered`.
    pub lost: u64,
    /// Slots that passed without a probe because this machine was late.
    pub late: u64,
    /// Longest time between two answers one after the other, or from the last answer to the last probe, in milliseconds.
    pub gap_ms: f64,
    /// When the longest gap began, since the start.
    pub gap_at: Duration,
    /// Answers by server.
    pub by_server: BTreeMap<String, u64>,
    /// TCP: why the connection ended before it was stopped. A wrong number is "corrupted: …".
    pub broken: Option<String>,
}

/// A running prober; dropping it stops it.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Sent>>,
    receiver: Option<JoinHandle<Received>>,
}

#[derive(Debug, Default)]
struct Sent {
    probes: u64,
    late: u64,
    last: Duration,
    broken: Option<String>,
}

#[derive(Debug, Default)]
struct Received {
    answers: u64,
    last: Option<Duration>,
    gap: Duration,
    gap_at: Duration,
    by_server: BTreeMap<String, u64>,
    broken: Option<String>,
}

impl Received {
    fn answer(&mut self, now: Duration, server: &str) {
        self.answers += 1;
        match self.by_server.get_mut(server) {
            Some(count) => *count += 1,
            None => drop(self.by_server.insert(server.to_owned(), 1)),
        }
        self.until(now);
        self.last = Some(now);
    }

    /// Without a first answer nothing was there to be interrupted.
    fn until(&mut self, now: Duration) {
        let Some(last) = self.last else { return };
        let gap = now.saturating_sub(last);
        if gap > self.gap {
            (self.gap, self.gap_at) = (gap, last);
        }
    }
}

impl Prober {
    /// One numbered datagram per `interval` from one socket, that is, one flow.
    ///
    /// # Errors
    /// The host is gone or the socket cannot be made.
    pub fn udp(host: &Host, to: SocketAddr, interval: Duration) -> Result<Self> {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let socket = host.enter(|| {
            UdpSocket::bind(any).and_then(|socket| socket.connect(to).map(|()| socket))
        })?;
        let socket = socket.context(|| format!("probe {to} from {}", host.name()))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .context(|| "set up the prober".into())?;
        let receiving = socket.try_clone().context(|| "set up the prober".into())?;
        Ok(Self::start(
            interval,
            move |number| match socket.send(&number.to_be_bytes()) {
                // An ICMP error of an earlier probe, or no route for the moment: the probe counts as lost.
                Ok(_) | Err(_) => Ok(()),
            },
            move |until| receive_datagrams(&receiving, until),
        ))
    }

    /// One numbered message per `interval` on one connection, which must survive; the answers must come in order.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn tcp(host: &Host, to: SocketAddr, interval: Duration) -> Result<Self> {
        let connected = host.enter(|| {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.set_write_timeout(Some(Duration::from_secs(60)))?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut server = String::new();
            reader.by_ref().take(256).read_line(&mut server)?;
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok::<_, io::Error>((stream, reader, server.trim().to_owned()))
        })?;
        let (mut stream, reader, server) =
            connected.context(|| format!("connect to {to} from {}", host.name()))?;
        Ok(Self::start(
            interval,
            move |number| stream.write_all(&number.to_be_bytes()),
            move |until| receive_stream(reader, &server, until),
        ))
    }

    fn start(
        interval: Duration,
        mut send: impl FnMut(u64) -> io::Result<()> + Send + 'static,
        receive: impl FnOnce(&Until) -> Received + Send + 'static,
    ) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let until = Until {
            start: Instant::now(),
            sent: Arc::default(),
            ended: Arc::default(),
        };
        let (told, mine) = (Arc::clone(&stop), until.clone());
        let sender = thread::spawn(move || {
            let sent = send_paced(interval, &told, &mine, &mut send);
            mine.sent.store(sent.probes, Ordering::Relaxed);
            mine.ended.store(true, Ordering::Release);
            sent
        });
        let receiver = thread::spawn(move || receive(&until));
        Self {
            stop,
            sender: Some(sender),
            receiver: Some(receiver),
        }
    }

    /// Stops sending, waits half a second for answers, and says what was seen.
    ///
    /// # Errors
    /// A thread of the prober panicked.
    pub fn stop(mut self) -> Result<Gap> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| Error::Unexpected {
            what: "a thread of the prober panicked".into(),
        };
        let sent = self
            .sender
            .take()
            .map(JoinHandle::join)
            .transpose()
            .map_err(panicked)?
            .unwrap_or_default();
        let mut received = self
            .receiver
            .take()
            .map(JoinHandle::join)
            .transpose()
            .map_err(panicked)?
            .unwrap_or_default();
        received.until(sent.last);
        Ok(Gap {
            sent: sent.probes,
            answered: received.answers,
            lost: sent.probes.saturating_sub(received.answers),
            late: sent.late,
            gap_ms: received.gap.as_secs_f64() * 1e3,
            gap_at: received.gap_at,
            by_server: received.by_server,
            broken: received.broken.or(sent.broken),
        })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

/// What sender and receiver share.
#[derive(Clone, Debug)]
struct Until {
    start: Instant,
    sent: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Until {
    /// Nothing more can come, or nothing more is waited for.
    fn is_over(&self, answers: u64, ended_at: &mut Option<Instant>) -> bool {
        if !self.ended.load(Ordering::Acquire) {
            return false;
        }
        let ended_at = *ended_at.get_or_insert_with(Instant::now);
        answers >= self.sent.load(Ordering::Relaxed) || ended_at.elapsed() > LINGER
    }
}

fn send_paced(
    interval: Duration,
    stop: &AtomicBool,
    until: &Until,
    send: &mut impl FnMut(u64) -> io::Result<()>,
) -> Sent {
    let mut sent = Sent::default();
    let mut due = until.start;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Err(error) = send(sent.probes) {
            sent.broken = Some(error.to_string());
            break;
        }
        sent.probes += 1;
        sent.last = until.start.elapsed();
        due += interval;
        while due + interval < Instant::now() {
            due += interval;
            sent.late += 1;
        }
    }
    sent
}

fn receive_datagrams(socket: &UdpSocket, until: &Until) -> Received {
    let mut received = Received::default();
    let mut buffer = [0; 256];
    let mut ended_at = None;
    while !until.is_over(received.answers, &mut ended_at) {
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let answer = buffer.get(..length).unwrap_or_default();
        // "<name> <number>", the number as bytes.
        let Some(at) = length.checked_sub(NUMBER_BYTES + 1) else {
            continue;
        };
        let name = String::from_utf8_lossy(answer.get(..at).unwrap_or_default());
        received.answer(until.start.elapsed(), &name);
    }
    received
}

fn receive_stream(mut stream: impl Read, server: &str, until: &Until) -> Received {
    let mut received = Received::default();
    let mut ended_at = None;
    let (mut number, mut filled) = ([0; NUMBER_BYTES], 0);
    while !until.is_over(received.answers, &mut ended_at) {
        match stream.read(number.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => {
                received.broken = Some("the server closed the connection".into());
                break;
            }
            Ok(length) => filled += length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(error) => {
                received.broken = Some(error.to_string());
                break;
            }
        }
        if filled == NUMBER_BYTES {
            let came = u64::from_be_bytes(number);
            if came != received.answers {
                received.broken = Some(format!(
                    "corrupted: {came} came in place of {}",
                    received.answers
                ));
                break;
            }
            received.answer(until.start.elapsed(), server);
            filled = 0;
        }
    }
    received
}
