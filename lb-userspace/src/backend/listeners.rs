//! Which sockets of this network namespace take connections and datagrams, from `/proc/net`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use lb_core::{backend_host::Listener, model::Protocol};

/// The kernel's numbers of socket states (`TCP_LISTEN`; a UDP socket that is not connected is `TCP_CLOSE`).
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// All listeners. `wanted`: the addresses that matter, for which a socket on `::` may have to be asked whether it takes
/// IPv4 as well.
pub fn read(wanted: &[(IpAddr, u16, Protocol)]) -> io::Result<BTreeSet<Listener>> {
    let mut found = BTreeSet::new();
    for (file, protocol, state) in [
        ("tcp", Protocol::Tcp, LISTENING),
        ("tcp6", Protocol::Tcp, LISTENING),
        ("udp", Protocol::Udp, UNCONNECTED),
        ("udp6", Protocol::Udp, UNCONNECTED),
    ] {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(text) => found.extend(listeners(&text, protocol, state)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for &(address, port, protocol) in wanted.iter().filter(|(address, ..)| address.is_ipv4()) {
        let listener = |address| Listener {
            protocol,
            address,
            port,
        };
        if found.contains(&listener(Ipv6Addr::UNSPECIFIED.into()))
            && is_taken(address, port, protocol)
        {
            found.insert(listener(address));
        }
    }
    Ok(found)
}

/// Whether a socket has `address` and `port`, be it one on `::` without `IPV6_V6ONLY`, which `/proc` does not tell: then
/// nobody else may bind them. Nothing is sent, and no connection is taken.
fn is_taken(address: IpAddr, port: u16, protocol: Protocol) -> bool {
    let try_bind = |address: IpAddr| match protocol {
        Protocol::Tcp => tokio::net::TcpSocket::new_v4().and_then(|socket| {
            // Connections that have ended do not count, listeners do.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(address, port))
        }),
        Protocol::Udp => UdpSocket::bind((address, port)).map(drop),
        // Its sockets are not read: nobody asks about them.
        Protocol::Sctp => Ok(()),
    };
    let outcome = match try_bind(address) {
        // The VIP is missing here.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            try_bind(Ipv4Addr::UNSPECIFIED.into())
        }
        outcome => outcome,
    };
    // For want of permission nothing is known, and so nothing said.
    outcome.is_err()
}

fn listeners(text: &str, protocol: Protocol, state: &str) -> impl Iterator<Item = Listener> {
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next()?;
        let found = words.nth(1)?;
        let (address, port) = local.split_once(':')?;
        (found == state).then_some(())?;
        Some(Listener {
            protocol,
            address: address_of(address)?.to_canonical(),
            port: u16::from_str_radix(port, 16).ok()?,
        })
    })
}

/// 32-bit words in the order of this machine, as hexadecimal numbers.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As a little-endian machine writes them.
    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_read_and_connections_are_not() {
        let text = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0A0200C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: nonsense
   3: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0
   4: B80D0120000000000000000010000000:0050 00000000000000000000000000000000:0000 0A 0
   5: 0000000000000000FFFF00000A0200C0:0051 00000000000000000000000000000000:0000 0A 0
";
        let found: Vec<_> = listeners(text, Protocol::Tcp, LISTENING)
            .map(|listener| SocketAddr::new(listener.address, listener.port).to_string())
            .collect();
        assert_eq!(
            found,
            [
                "192.0.2.10:80",
                "[::]:443",
                "[2001:db8::10]:80",
                "192.0.2.10:81"
            ]
        );
    }

    #[test]
    fn a_socket_of_both_families_is_found_for_ipv4() {
        let local = IpAddr::from([127, 0, 0, 1]);
        // The standard library leaves IPV6_V6ONLY as the kernel has it, which is off.
        let Ok(socket) = UdpSocket::bind("[::]:0") else {
            return;
        };
        let port = socket.local_addr().expect("bound").port();
        let wanted = [(local, port, Protocol::Udp)];
        let found = read(&wanted).expect("/proc is there");
        let listener = |address: IpAddr, protocol| Listener {
            protocol,
            address,
            port,
        };
        assert!(found.contains(&listener(Ipv6Addr::UNSPECIFIED.into(), Protocol::Udp)));
        assert!(found.contains(&listener(local, Protocol::Udp)));
        drop(socket);
        let found = read(&wanted).expect("/proc is there");
        assert!(!found.contains(&listener(local, Protocol::Udp)));
    }
}
