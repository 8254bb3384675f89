//! Suite `packet`: nanoseconds of a program alone, with packets of many flows.
//!
//! The harness writes a fresh packet for every run and tail-calls the program. What it costs by itself is measured in the same rounds,
//! with a program that does nothing, and subtracted; where a program puts a header before the packet, so is what taking it off again costs.

use anyhow::{Result, ensure};
use aya::{
    maps::ProgramArray,
    programs::{ProgramFd, TestRun as _, TestRunOptions},
};
use lb_common::load::Plan;
use lb_userspace::{
    dataplane::xdp_context,
    load::{BenchObject, Shape, Sizes},
};

use crate::{
    bed::{self, Cable},
    lru, machine,
    modes::MODES,
    result::{Effort, Row, Spread, ratio},
    services,
};

/// A program on packets.
struct Entrant {
    case: String,
    alternative: &'static str,
    program: ProgramFd,
    shape: Shape,
    plan: Plan,
    v6: bool,
    encapsulates: bool,
    ns: Vec<f64>,
}

const TRANSMIT: u32 = 3;
const PASS: u32 = 2;

pub fn run(effort: &Effort) -> Result<Vec<Row>> {
    let run = machine::describe();
    bed::on_bed(|| {
        machine::pin();
        let dataplane = services::load(Cable::Futago.hop())?;
        let futago = dataplane.program()?.fd()?.try_clone()?;
        let mut rows = Vec::new();
        for flows in effort.flows() {
            let most = flows.max(65_536) * 4;
            let mut object = BenchObject::load(
                Sizes {
                    lru_flows_v4: most,
                    lru_flows_v6: most / 2,
                },
                &["harness", "nothing", "grow", "reflect", "lru"],
            )?;
            lru::fill(&mut object, Cable::Lru.hop())?;
            let mut entrants = entrants(effort, flows, &futago, &mut object)?;
            for entrant in &mut entrants {
                // Fills what there is to fill, and says whether the program does what is to be timed.
                time(&mut object, entrant, flows.max(1 << 16))?;
                entrant.ns.clear();
            }
            let repeat = if effort.quick { 1 << 18 } else { 1 << 21 };
            for round in 0..effort.rounds() {
                eprint!(
                    "\rpacket: {flows} flows, round {} of {} ",
                    round + 1,
                    effort.rounds()
                );
                for entrant in &mut entrants {
                    time(&mut object, entrant, repeat)?;
                }
            }
            eprintln!();
            rows.extend(collect(&entrants, flows, &run));
        }
        Ok(rows)
    })
}

fn entrants(
    effort: &Effort,
    flows: u32,
    futago: &ProgramFd,
    object: &mut BenchObject,
) -> Result<Vec<Entrant>> {
    let mut all = Vec::new();
    let mut add = |case: &str, alternative, program: &ProgramFd, shape: Shape, encapsulates| {
        let plan = shape.plan()?;
        all.push(Entrant {
            case: case.to_owned(),
            alternative,
            program: program.try_clone()?,
            v6: shape.destination.is_ipv6(),
            shape,
            plan,
            encapsulates,
            ns: Vec::new(),
        });
        anyhow::Ok(())
    };
    for v6 in [false, true] {
        let line = MODES.iter().position(|case| case.v6 == v6).unwrap_or(0);
        let shape = || bed::shape(Cable::Futago, line, flows);
        for name in ["nothing", "grow"] {
            let program = object.descriptor(name)?;
            add("harness", name, &program, shape(), name == "grow")?;
        }
        let reflect = object.descriptor("reflect")?;
        add("harness", "floor", &reflect, shape(), false)?;
    }
    let yardstick = object.descriptor("lru")?;
    for (line, case) in MODES.iter().enumerate() {
        if !effort.wants(&case.name()) {
            continue;
        }
        let name = format!("{} settled", case.name());
        let tunnel = case.mode.starts_with("l3-dsr-");
        let shape = bed::shape(Cable::Futago, line, flows);
        add(&name, "futago", futago, shape, tunnel)?;
        if case.lru.is_some() {
            let shape = bed::shape(Cable::Lru, line, flows);
            add(&name, "lru", &yardstick, shape, tunnel)?;
        }
    }
    for v6 in [false, true] {
        // An address that no service has: the packet is the host's.
        let to = bed::kernel_destination(v6, false);
        let shape = bed::to_address(Cable::Futago, to, flows);
        let name = format!("not-ours {}", if v6 { "v6" } else { "v4" });
        if effort.wants(&name) {
            add(&name, "futago", futago, shape, false)?;
        }
    }
    Ok(all)
}

/// One round of an entrant.
fn time(object: &mut BenchObject, entrant: &mut Entrant, repeat: u32) -> Result<()> {
    let mut plan = [0_u8; size_of::<Plan>()];
    plan.copy_from_slice(zerocopy::IntoBytes::as_bytes(&entrant.plan));
    object
        .array::<[u8; size_of::<Plan>()]>("PLAN")?
        .set(0, plan, 0)?;
    // Rounds go on where the last one ended, so that they are not all of the same packets.
    let frame = entrant.shape.frame();
    let map = object.ebpf().map_mut("TESTED");
    let mut tested: ProgramArray<_> = map
        .ok_or_else(|| anyhow::anyhow!("no TESTED"))?
        .try_into()?;
    tested.set(0, &entrant.program, 0)?;
    let mut output = vec![0; frame.len() + 256];
    let cable = if entrant.alternative == "lru" {
        Cable::Lru
    } else {
        Cable::Futago
    };
    let context = xdp_context(frame.len() as u32, cable.far());
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut output),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::new()
    };
    let program = object.program("harness")?;
    let started = machine::thread_time();
    let result = program.test_run(options)?;
    let took = machine::thread_time() - started;
    let wanted = if entrant.case.starts_with("not-ours") {
        PASS
    } else {
        TRANSMIT
    };
    ensure!(
        result.return_value == wanted
            && (result.data_size_out as usize > frame.len()) == entrant.encapsulates,
        "{} of {} answered {} with a frame of {} bytes: this is not what was to be timed",
        entrant.alternative,
        entrant.case,
        result.return_value,
        result.data_size_out
    );
    entrant.ns.push(took.as_nanos() as f64 / f64::from(repeat));
    Ok(())
}

fn collect(entrants: &[Entrant], flows: u32, run: &str) -> Vec<Row> {
    let harness = |v6: bool, alternative: &str| {
        entrants
            .iter()
            .find(|entrant| {
                entrant.case == "harness" && entrant.v6 == v6 && entrant.alternative == alternative
            })
            .map_or(&[][..], |entrant| &entrant.ns)
    };
    let mut rows = Vec::new();
    for entrant in entrants {
        let nothing = harness(entrant.v6, "nothing");
        if entrant.case == "harness" && entrant.alternative != "floor" {
            continue;
        }
        let grow = harness(entrant.v6, "grow");
        let alone: Vec<f64> = (0..entrant.ns.len())
            .map(|round| {
                // Half of what `grow` costs is making room, which is the program's own.
                let undo = if entrant.encapsulates {
                    (grow[round] - nothing[round]) / 2.0
                } else {
                    0.0
                };
                entrant.ns[round] - nothing[round] - undo
            })
            .collect();
        let floor: Vec<f64> = harness(entrant.v6, "floor")
            .iter()
            .zip(nothing)
            .map(|(floor, nothing)| floor - nothing)
            .collect();
        let case = if entrant.case == "harness" {
            format!("mac-swap {}", if entrant.v6 { "v6" } else { "v4" })
        } else {
            entrant.case.clone()
        };
        rows.push(Row {
            suite: "packet".into(),
            case,
            flows,
            alternative: entrant.alternative.into(),
            mpps: None,
            ns: Some(Spread::of(&alone)),
            value: None,
            unit: None,
            ratio_to_floor: Some(ratio(&alone, &floor)),
            loss: 0.0,
            rounds: alone.len(),
            run: run.to_owned(),
        });
    }
    rows
}
