//! Sizes of slot tables are prime, so that any step through a table visits every slot.

use crate::config::{
    diagnostic::{Diagnostic, Sink},
    reader::At,
};

/// The least prime that is not less than `n`; `None` beyond 32 bits.
pub fn next_prime(n: u32) -> Option<u32> {
    (n.max(2)..=u32::MAX).find(|n| is_prime(*n))
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(n))
            .all(|d: u32| !n.is_multiple_of(d))
}

pub(super) fn check(slots: &At<u32>, sink: &Sink) -> Option<u32> {
    if is_prime(slots.value) {
        return Some(slots.value);
    }
    let diagnostic = Diagnostic::error(
        slots.span.clone(),
        format!("`slots` is {}, which is not a prime", slots.value),
    );
    sink.push(match next_prime(slots.value) {
        Some(prime) => diagnostic.label(format!("the next prime is {prime}")),
        None => diagnostic,
    });
    None
}
