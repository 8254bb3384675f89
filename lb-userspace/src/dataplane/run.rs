//! Running the loaded program on a frame of one's own, without any interface: for tests and benches.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};

use super::Dataplane;

/// Headers that the program may put before a frame.
const GROWTH: usize = 256;

/// What the program answers (`enum xdp_action` of linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A defect: the kernel drops the frame and tells a tracepoint.
    Aborted,
    Drop,
    Pass,
    /// Back out of the interface that it came in on.
    Transmit,
    /// Out of another interface.
    Redirect,
}

/// Outcome of a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    pub action: Action,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Of one run, on average.
    pub duration: Duration,
}

/// Why a test run did not take place.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("a test run takes frames of 14 bytes up to about 3500; this one has {0}")]
    FrameLength(usize),
    #[error(
        "the kernel did not run the program (is there an interface {ifindex} in this network namespace?): {source}"
    )]
    Kernel {
        ifindex: u32,
        source: Box<ProgramError>,
    },
    #[error("the program answered {0}, which is no XDP action")]
    Action(u32),
}

impl Dataplane {
    /// Runs the program once on a frame that came in on an interface of this network namespace; 0: on none.
    pub fn test_run(&self, frame: &[u8], ingress_ifindex: u32) -> Result<TestRun, RunError> {
        self.test_run_repeated(frame, ingress_ifindex, 1)
    }

    /// Runs the program `repeat` times. The frame is not restored in between: all runs but the first see what it has become.
    pub fn test_run_repeated(
        &self,
        frame: &[u8],
        ingress_ifindex: u32,
        repeat: u32,
    ) -> Result<TestRun, RunError> {
        let program = self.program().map_err(|source| RunError::Kernel {
            ifindex: ingress_ifindex,
            source: Box::new(source),
        })?;
        test_run(program, frame, ingress_ifindex, repeat)
    }
}

/// Runs a program; see [`Dataplane::test_run_repeated`].
pub(super) fn test_run(
    program: &Xdp,
    frame: &[u8],
    ingress_ifindex: u32,
    repeat: u32,
) -> Result<TestRun, RunError> {
    // One page less the kernel's headroom and tailroom; more needs a program that takes fragments.
    if !(14..=3500).contains(&frame.len()) {
        return Err(RunError::FrameLength(frame.len()));
    }
    let context = xdp_context(frame.len() as u32, ingress_ifindex);
    let mut output = vec![0; frame.len() + GROWTH];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut output),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|source| RunError::Kernel {
            ifindex: ingress_ifindex,
            source: Box::new(source),
        })?;
    output.truncate(result.data_size_out as usize);
    Ok(TestRun {
        action: action(result.return_value)?,
        frame: output,
        duration: result.duration,
    })
}

/// `struct xdp_md` of linux/bpf.h: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
pub fn xdp_context(length: u32, ingress_ifindex: u32) -> [u8; 24] {
    let mut context = [0; 24];
    for (field, value) in context
        .chunks_exact_mut(4)
        .zip([0, length, 0, ingress_ifindex, 0, 0])
    {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    context
}

fn action(number: u32) -> Result<Action, RunError> {
    Ok(match number {
        0 => Action::Aborted,
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Transmit,
        4 => Action::Redirect,
        other => return Err(RunError::Action(other)),
    })
}
