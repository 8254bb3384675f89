//! Which parts of the packet path a configuration uses: the others are taken out when the program is loaded.

use lb_common::tables::features::{ALL, ANSWER, FRAGMENTS, MSS, RELATED, SALT, TUNNEL};

use crate::model::{
    Echo, Fragments, HashPolicy, Mode, Model, OnBackendDown, OnDrainEnd, Service, Unmatched,
};

/// Bits of [`lb_common::tables::features`]; those that nothing is said of here are always set.
pub fn features(model: &Model) -> u32 {
    let used = |feature: u32, by: fn(&Service) -> bool| match model.services.iter().any(by) {
        true => feature,
        false => 0,
    };
    let known = TUNNEL | ANSWER | RELATED | FRAGMENTS | MSS | SALT;
    let found = used(TUNNEL, |service| service.mode.is_tunnel())
        | used(ANSWER, answers)
        | used(RELATED, |_| true)
        | used(FRAGMENTS, |service| service.fragments != Fragments::Drop)
        | used(MSS, |service| service.mss_clamp.is_some())
        | used(SALT, |service| {
            matches!(service.hash, HashPolicy::L2L3 | HashPolicy::PerPacket)
        });
    ALL & !known | found
}

/// Whether a sender may have to be told something, or an unmatched packet is not simply passed.
fn answers(service: &Service) -> bool {
    service.mode != Mode::L2Dsr
        || service.unmatched != Unmatched::Pass
        || service.echo != Echo::Host
        || service.on_backend_down == OnBackendDown::Reset
        || service.drain.at_end == OnDrainEnd::Reset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn of(keys: &str) -> u32 {
        let text = format!(
            "node.n.interfaces = [\"eth0\"]\n[[service]]\nname = \"a\"\nvip = \"192.0.2.1\"\nport = 80\n{keys}\n"
        );
        let parsed = parse("test.toml", &text);
        features(&parsed.unwrap_or_else(|report| panic!("{report}")).model)
    }

    #[test]
    fn each_part_is_there_for_what_uses_it() {
        let plain = of("mode = \"l2-dsr\"");
        let least = ALL & !(TUNNEL | ANSWER | MSS | SALT);
        assert_eq!(plain, least);
        for (keys, more) in [
            ("mode = \"nat\"", ANSWER),
            ("mode = \"l2-dsr\"\nunmatched = \"drop\"", ANSWER),
            ("mode = \"l2-dsr\"\necho = \"balancer\"", ANSWER),
            ("mode = \"l3-dsr\"\nencap = \"gre\"", TUNNEL | ANSWER),
            ("mode = \"l2-dsr\"\non_backend_down = \"reset\"", ANSWER),
            ("mode = \"l2-dsr\"\non_drain_end = \"reset\"", ANSWER),
            ("mode = \"l2-dsr\"\nmss_clamp = 1400", MSS),
            ("mode = \"l2-dsr\"\nhash = \"l2+3\"", SALT),
        ] {
            assert_eq!(of(keys), least | more, "{keys}");
        }
        assert_eq!(
            of("mode = \"l2-dsr\"\nfragments = \"drop\""),
            least & !FRAGMENTS
        );
    }
}
