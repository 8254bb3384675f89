//! Parts of the program that a configuration does not use are not in the kernel, and come when one does.

use integration::packet::{
    namespace::alone,
    path::in_kernel,
    world::{self, Client, FRONT, KINDS, Vip, request},
};
use lb_common::{reason::Reason, tables::features};
use lb_userspace::dataplane::{Dataplane, Options};

fn open(features: u32) -> Dataplane {
    let options = Options {
        answers_per_second: u32::MAX,
        features,
        ..Options::new(world::CAPACITY)
    };
    Dataplane::open(options).unwrap_or_else(|error| panic!("{error}"))
}

fn verified(features: u32) -> u32 {
    let count = alone(&world::ip_commands(), || {
        open(features).verified_instructions()
    });
    count.expect("this kernel says")
}

/// All parts, each part left out, and none of them.
#[test]
fn what_is_not_used_is_not_verified() {
    let all = verified(features::ALL);
    println!("all: {all}");
    let parts = [
        ("tunnel", features::TUNNEL),
        ("answer", features::ANSWER),
        ("related", features::RELATED),
        ("fragments", features::FRAGMENTS),
        ("mss", features::MSS),
        ("salt", features::SALT),
    ];
    let mut none = features::ALL;
    for (name, part) in parts {
        let without = verified(features::ALL & !part);
        println!("without {name}: {without}");
        none &= !part;
    }
    let least = verified(none);
    println!("without all of these: {least}");
    assert!(least < all);
}

#[test]
fn a_program_is_widened_over_the_same_tables() {
    alone(&world::ip_commands(), || {
        let mut dataplane = open(features::ALL & !features::TUNNEL);
        let writes = world::plan(&world::model()).1;
        let written = dataplane.tables_mut().apply(&writes);
        written.unwrap_or_else(|error| panic!("{error}"));
        let reason = |dataplane: &Dataplane, vip| {
            let frame = request(vip, KINDS[0], Client::Routed).bytes();
            in_kernel(dataplane, &frame, FRONT).reason
        };
        assert_eq!(reason(&dataplane, Vip::Dsr), Reason::ToBackend);
        assert_eq!(reason(&dataplane, Vip::Ipip), Reason::TableDefect);
        dataplane
            .widen(features::TUNNEL)
            .unwrap_or_else(|error| panic!("{error}"));
        for vip in [Vip::Dsr, Vip::Ipip, Vip::Nat] {
            assert_eq!(reason(&dataplane, vip), Reason::ToBackend);
        }
    });
}
