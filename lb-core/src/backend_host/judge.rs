//! What is not as it should be on a host that has these duties.

use core::net::IpAddr;
use std::collections::BTreeSet;

use super::{
    Arrival, Decapsulation, DefaultRoute, Duty, Finding, Host, Kind, LOOPBACK, Listener, Setting,
    Step, program_duties,
};
use crate::model::ServiceName;

/// TCP's and IP's headers without options, in bytes.
const HEADERS_V4_BYTES: u32 = 40;
const HEADERS_V6_BYTES: u32 = 60;

/// The settings that [`judge`] wants to know.
pub fn settings_of_interest(duties: &[Duty]) -> BTreeSet<Setting> {
    let mut settings = BTreeSet::from([Setting::ipv6(LOOPBACK, "disable_ipv6")]);
    for scope in duties
        .iter()
        .map(|duty| duty.interface.as_str())
        .chain(["all"])
    {
        for name in ["arp_ignore", "arp_announce", "rp_filter"] {
            settings.insert(Setting::ipv4(scope, name));
        }
    }
    settings
}

/// Everything that is not as it should be, in the order to mend it: what keeps the server silent about a VIP comes before the
/// VIP. `gateways` are the load balancer's addresses towards the servers; empty if nobody
/// said.
pub fn judge(duties: &[Duty], host: &Host, gateways: &BTreeSet<IpAddr>) -> Vec<Finding> {
    let judge = Judge { duties, host };
    let mut findings = Vec::new();
    for interface in judge.interfaces(|duty| duty.arrival.to_vip() && duty.key.vip.is_ipv4()) {
        findings.extend(judge.arp_ignore(interface));
        findings.extend(judge.arp_announce(interface));
        findings.extend(judge.rp_filter(interface));
    }
    findings.extend(judge.ipv6_disabled());
    let vips: BTreeSet<IpAddr> = duties
        .iter()
        .filter(|duty| duty.arrival.to_vip())
        .map(|duty| duty.key.vip)
        .collect();
    for &vip in &vips {
        judge.vip(vip, &mut findings);
    }
    findings.extend(judge.decapsulation());
    findings.extend(duties.iter().filter_map(|duty| judge.listening(duty)));
    for ipv6 in [false, true] {
        findings.extend(judge.gateway(ipv6, gateways));
        findings.extend(judge.way_back(ipv6));
        findings.extend(judge.segment_size(ipv6));
    }
    findings
}

struct Judge<'a> {
    duties: &'a [Duty],
    host: &'a Host,
}

impl Judge<'_> {
    fn interfaces(&self, concerns: impl Fn(&Duty) -> bool) -> BTreeSet<&str> {
        let duties = self.duties.iter().filter(|duty| concerns(duty));
        duties.map(|duty| duty.interface.as_str()).collect()
    }

    fn services(&self, concerns: impl Fn(&Duty) -> bool) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> = Vec::new();
        for duty in self.duties.iter().filter(|duty| concerns(duty)) {
            if !names.contains(&duty.service) {
                names.push(duty.service.clone());
            }
        }
        names
    }

    /// A value that is no number is as good as the kernel's default.
    fn value(&self, setting: &Setting) -> Option<u32> {
        Some(self.host.settings.get(setting)?.parse().unwrap_or(0))
    }

    /// What the kernel goes by: the larger of `all` and the interface's own.
    fn effective(&self, interface: &str, name: &'static str) -> Option<u32> {
        let all = self.value(&Setting::ipv4("all", name));
        all.max(self.value(&Setting::ipv4(interface, name)))
    }

    /// Steps that give `all` and the interface `value`, where theirs is not among `good`.
    fn set_both(
        &self,
        interface: &str,
        name: &'static str,
        value: &'static str,
        good: &[u32],
    ) -> Vec<Step> {
        let settings = ["all", interface].map(|scope| Setting::ipv4(scope, name));
        settings
            .into_iter()
            .filter(|setting| self.value(setting).is_some_and(|now| !good.contains(&now)))
            .map(|setting| Step::Set { setting, value })
            .collect()
    }

    fn ipv4_vips_by(&self, interface: &str) -> Vec<ServiceName> {
        self.services(|duty| {
            duty.arrival.to_vip() && duty.key.vip.is_ipv4() && duty.interface == interface
        })
    }

    fn arp_ignore(&self, interface: &str) -> Option<Finding> {
        // 1: answer for addresses of the interface alone; 2: and only to the same subnet. 3 answers for addresses of global
        // scope wherever they are, 8 for none.
        let good = [1, 2];
        let now = self.effective(interface, "arp_ignore")?;
        let what = match now {
            now if good.contains(&now) => return None,
            8 => format!(
                "arp_ignore is 8 on {interface}: the server answers no ARP request, and the load balancer cannot find it"
            ),
            now => format!(
                "arp_ignore is {now} on {interface}: the server answers ARP requests for the VIP, and takes it from the load balancer"
            ),
        };
        Some(Finding {
            kind: Kind::ArpIgnore,
            services: self.ipv4_vips_by(interface),
            what,
            steps: self.set_both(interface, "arp_ignore", "1", &good),
        })
    }

    fn arp_announce(&self, interface: &str) -> Option<Finding> {
        let now = self.effective(interface, "arp_announce")?;
        (now != 2).then(|| Finding {
            kind: Kind::ArpAnnounce,
            services: self.ipv4_vips_by(interface),
            what: format!(
                "arp_announce is {now} on {interface}: the server's own ARP requests name the VIP as theirs, and neighbours learn that it is here"
            ),
            steps: self.set_both(interface, "arp_announce", "2", &[2]),
        })
    }

    fn rp_filter(&self, interface: &str) -> Option<Finding> {
        (self.effective(interface, "rp_filter")? == 1).then(|| Finding {
            kind: Kind::RpFilter,
            services: self.ipv4_vips_by(interface),
            what: format!(
                "rp_filter is strict (1) on {interface}: packets of clients that are not routed back by this interface are dropped"
            ),
            // The larger of `all` and the interface's own counts, so that the others keep what they have.
            steps: vec![Step::Set {
                setting: Setting::ipv4(interface, "rp_filter"),
                value: "2",
            }],
        })
    }

    fn ipv6_disabled(&self) -> Option<Finding> {
        let concerned = |duty: &Duty| duty.arrival.to_vip() && duty.key.vip.is_ipv6();
        let setting = Setting::ipv6(LOOPBACK, "disable_ipv6");
        (self.duties.iter().any(concerned) && self.value(&setting)? != 0).then(|| Finding {
            kind: Kind::Ipv6Disabled,
            services: self.services(concerned),
            what: "IPv6 is switched off on lo, which can have no VIP so".to_owned(),
            steps: vec![Step::Set {
                setting,
                value: "0",
            }],
        })
    }

    fn vip(&self, vip: IpAddr, findings: &mut Vec<Finding>) {
        let services = self.services(|duty| duty.arrival.to_vip() && duty.key.vip == vip);
        let full = if vip.is_ipv4() { 32 } else { 128 };
        let mut held = false;
        let before = findings.len();
        for (name, interface) in &self.host.interfaces {
            let own = interface.addresses.iter().filter(|(own, _)| *own == vip);
            for &(_, length) in own {
                held |= interface.silent && length == full;
                let delete = format!("ip address delete {vip}/{length} dev {name}");
                if !interface.silent {
                    findings.push(Finding {
                        kind: Kind::VipWrongInterface,
                        services: services.clone(),
                        what: format!(
                            "{vip} is on {name}: the server answers {} requests for it there, and takes it from the load balancer",
                            if vip.is_ipv4() { "ARP" } else { "neighbour" }
                        ),
                        steps: vec![Step::ByHand(delete)],
                    });
                } else if length != full {
                    findings.push(Finding {
                        kind: Kind::VipWidePrefix,
                        services: services.clone(),
                        what: format!(
                            "{vip} is on {name} as /{length}: the server takes its whole network for its own, and cannot reach clients in it"
                        ),
                        steps: vec![Step::ByHand(delete), Step::AddVip(vip)],
                    });
                }
            }
        }
        // IPv6 has an address once on an interface: /64 must go before /128 can come, and that is not ours to do.
        let wide = findings
            .iter()
            .skip(before)
            .any(|finding| finding.kind == Kind::VipWidePrefix);
        if !held && !wide {
            let missing = Finding {
                kind: Kind::VipMissing,
                services,
                what: format!(
                    "{vip} is not on lo: the server drops the packets that the load balancer sends it"
                ),
                steps: vec![Step::AddVip(vip)],
            };
            findings.insert(before, missing);
        }
    }

    fn decapsulation(&self) -> Vec<Finding> {
        let wanted = program_duties(self.duties);
        let found = |duty: &Duty| {
            let interface = self.host.interfaces.get(&duty.interface);
            match interface.map(|interface| &interface.decapsulates) {
                // No device of the kernel knows marks.
                Some(Decapsulation::Device) if duty.mark != 0 => &Decapsulation::Nobody,
                Some(found) => found,
                None => &Decapsulation::Nobody,
            }
        };
        let nobody = |duty: &Duty| duty.needs_program() && *found(duty) == Decapsulation::Nobody;
        let other = |duty: &Duty| {
            duty.needs_program()
                && matches!(found(duty), Decapsulation::Program(duties) if *duties != wanted)
        };
        // One program for all of them: it is replaced everywhere, or on none.
        let interfaces = self
            .duties
            .iter()
            .filter(|duty| duty.needs_program() && *found(duty) != Decapsulation::Device)
            .map(|duty| duty.interface.clone())
            .collect();
        let step = Step::Decapsulate {
            interfaces,
            duties: wanted.clone(),
        };
        let finding = |kind, services: Vec<ServiceName>, what: &str| {
            (!services.is_empty()).then(|| Finding {
                kind,
                services,
                what: what.to_owned(),
                steps: vec![step.clone()],
            })
        };
        let findings = [
            finding(
                Kind::NotDecapsulated,
                self.services(nobody),
                "nothing on this server takes the packets out of the tunnel, or knows which VIP a DSCP stands for",
            ),
            finding(
                Kind::DecapsulatesOther,
                self.services(other),
                "the XDP program on this server was set up for other services or addresses than the file has now",
            ),
        ];
        // The step mends both.
        findings.into_iter().flatten().take(1).collect()
    }

    fn listening(&self, duty: &Duty) -> Option<Finding> {
        let (address, port) = duty.listens_at();
        let any: IpAddr = match address {
            IpAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let protocol = duty.key.protocol;
        // A kernel without its module has no list of SCTP's sockets.
        if protocol == crate::model::Protocol::Sctp {
            return None;
        }
        let listens = [address, any].into_iter().any(|address| {
            let wanted = Listener {
                protocol,
                address,
                port,
            };
            self.host.listeners.contains(&wanted)
        });
        (!listens).then(|| Finding {
            kind: Kind::NotListening,
            services: vec![duty.service.clone()],
            what: format!(
                "nothing listens on {}/{protocol}: let the server listen on this address, or on all",
                core::net::SocketAddr::new(address, port)
            ),
            steps: vec![Step::ByHand(format!(
                "ss -H -n -p -l -{} 'sport = :{port}'",
                if protocol == crate::model::Protocol::Tcp { 't' } else { 'u' }
            ))],
        })
    }

    /// The route that answers to clients take.
    fn default_route(&self, ipv6: bool) -> Option<&DefaultRoute> {
        let routes = self.host.default_routes.iter();
        routes
            .filter(|route| route.ipv6 == ipv6)
            .min_by_key(|route| route.metric)
    }

    fn gateway(&self, ipv6: bool, gateways: &BTreeSet<IpAddr>) -> Option<Finding> {
        let concerned = |duty: &Duty| {
            duty.arrival == Arrival::Translated && duty.backend.address.is_ipv6() == ipv6
        };
        let services = self.services(concerned);
        let interface = &self.duties.iter().find(|duty| concerned(duty))?.interface;
        let route = self.default_route(ipv6);
        let known = || gateways.iter().filter(|gateway| gateway.is_ipv6() == ipv6);
        let leads = match route {
            None => "there is no default route".to_owned(),
            Some(DefaultRoute {
                gateway: None,
                interface,
                ..
            }) => {
                format!("the default route has no gateway (dev {interface})")
            }
            Some(DefaultRoute {
                gateway: Some(gateway),
                ..
            }) => {
                // Where nobody said, any gateway may be the load balancer.
                if known().next().is_none() || gateways.contains(gateway) {
                    return None;
                }
                format!("the default route leads to {gateway}")
            }
        };
        let family = if ipv6 { "-6" } else { "-4" };
        let through = known()
            .next()
            .map_or_else(|| "LOAD_BALANCER".to_owned(), IpAddr::to_string);
        Some(Finding {
            kind: Kind::Gateway,
            services,
            what: format!(
                "{leads}, not to the load balancer: clients get answers from an address that they did not ask"
            ),
            steps: vec![Step::ByHand(format!(
                "ip {family} route replace default via {through} dev {interface}"
            ))],
        })
    }

    fn way_back(&self, ipv6: bool) -> Option<Finding> {
        let services =
            self.services(|duty| duty.arrival.to_vip() && duty.key.vip.is_ipv6() == ipv6);
        (!services.is_empty() && self.default_route(ipv6).is_none()).then(|| Finding {
            kind: Kind::NoDefaultRoute,
            services,
            what: format!(
                "there is no default route for {}: only clients in the server's own networks get answers",
                if ipv6 { "IPv6" } else { "IPv4" }
            ),
            steps: Vec::new(),
        })
    }

    /// The segments of clients travel in larger packets; that the server asks for smaller ones saves fragments and errors.
    fn segment_size(&self, ipv6: bool) -> Option<Finding> {
        let tunnelled = |duty: &Duty| match duty.arrival {
            Arrival::Tunnelled { overhead_bytes } if duty.key.vip.is_ipv6() == ipv6 => {
                let interface = self.host.interfaces.get(&duty.interface)?;
                let headers = if ipv6 {
                    HEADERS_V6_BYTES
                } else {
                    HEADERS_V4_BYTES
                };
                interface.mtu.checked_sub(overhead_bytes + headers)
            }
            _ => None,
        };
        let limit = self.duties.iter().filter_map(tunnelled).min()?;
        let route = self.default_route(ipv6)?;
        if route.advmss.is_some_and(|advmss| advmss <= limit) {
            return None;
        }
        let mut command = format!(
            "ip {} route replace default",
            if ipv6 { "-6" } else { "-4" }
        );
        if let Some(gateway) = route.gateway {
            let family = if gateway.is_ipv6() && !ipv6 {
                "inet6 "
            } else {
                ""
            };
            command += &format!(" via {family}{gateway}");
        }
        command += &format!(" dev {}", route.interface);
        if route.metric != 0 {
            command += &format!(" metric {}", route.metric);
        }
        command += &format!(" advmss {limit}");
        Some(Finding {
            kind: Kind::SegmentSize,
            services: self.services(|duty| tunnelled(duty).is_some()),
            what: format!(
                "clients may send segments that do not fit into the tunnel: {limit} bytes do, as long as no link on the way is narrower than the server's own"
            ),
            steps: vec![Step::ByHand(command)],
        })
    }
}
