//! Sending: the kernel runs the generator on live frames, as many as it is told in one call.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions};
use lb_common::load::{Plan, Progress};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{BenchObject, LoadError, Shape, object::table};
use crate::dataplane::xdp_context;

/// Frames that the kernel sends at once.
const BATCH: u32 = 64;

const PLAN: &str = "PLAN";
const PROGRESS: &str = "PROGRESS";

/// A generator of one plan. It sends from the thread that runs it, on the CPU of that thread.
pub struct Generator<'a> {
    object: &'a mut BenchObject,
    frame: Vec<u8>,
    ifindex: u32,
}

/// What one call has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub sent: u64,
    /// Time that the kernel took, without what it took to set up.
    pub took: Duration,
    /// A signal came before the end.
    pub interrupted: bool,
}

impl<'a> Generator<'a> {
    /// For an object with the program `generate` loaded.
    pub fn new(object: &'a mut BenchObject, shape: &Shape, plan: &Plan) -> Result<Self, LoadError> {
        let mut generator = Self {
            object,
            frame: shape.frame(),
            ifindex: shape.ifindex,
        };
        generator.follow(plan)?;
        Ok(generator)
    }

    /// Begins another plan of the same shape.
    pub fn follow(&mut self, plan: &Plan) -> Result<(), LoadError> {
        write_plan(self.object, plan)
    }

    /// Packets since the plan began.
    pub fn sent(&mut self) -> Result<u64, LoadError> {
        Ok(progress(self.object)?.sent)
    }

    /// Runs the generator `frames` times; where the plan has a rate or an end it sends fewer.
    pub fn run(&mut self, frames: u32) -> Result<Run, LoadError> {
        let before = self.sent()?;
        let context = xdp_context(self.frame.len() as u32, self.ifindex);
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let program = self.object.program("generate")?;
        let (took, interrupted) = match program.test_run(options) {
            // The kernel answers the time of one frame in whole nanoseconds.
            Ok(result) => (result.duration * frames, false),
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::Interrupted =>
            {
                (Duration::ZERO, true)
            }
            Err(error) => return Err(LoadError::Send(Box::new(error))),
        };
        Ok(Run {
            sent: self.sent()? - before,
            took,
            interrupted,
        })
    }
}

/// Begins a plan.
pub(super) fn write_plan(object: &mut BenchObject, plan: &Plan) -> Result<(), LoadError> {
    let mut bytes = [0_u8; size_of::<Plan>()];
    bytes.copy_from_slice(plan.as_bytes());
    let none = [0_u8; size_of::<Progress>()];
    let mut progress = object.array::<[u8; size_of::<Progress>()]>(PROGRESS)?;
    progress.set(0, none, 0).map_err(table(PROGRESS))?;
    let mut plans = object.array::<[u8; size_of::<Plan>()]>(PLAN)?;
    plans.set(0, bytes, 0).map_err(table(PLAN))
}

fn progress(object: &mut BenchObject) -> Result<Progress, LoadError> {
    let bytes: [u8; size_of::<Progress>()] = object
        .array(PROGRESS)?
        .get(&0, 0)
        .map_err(table(PROGRESS))?;
    Ok(Progress::read_from_bytes(&bytes).unwrap_or_default())
}
