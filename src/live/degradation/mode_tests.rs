//! Tests of modes with a simulated clock.

use super::*;
use crate::policy::sections::model::{Manual, Sign};
use crate::resilience::condition::Condition;

const S: Duration = Duration::from_secs(1);

fn policy(name: &str) -> Degradation {
    Degradation {
        enabled: true,
        name: name.to_owned(),
        mode: EnforcementMode::Enforce,
        when: Condition::Is(Sign::Manual(Manual)),
        hold: S,
        recover_after: 2 * S,
        actions: Vec::new(),
    }
}

fn cell(modes: &Modes, name: &str) -> Arc<ModeCell> {
    modes.cell(&policy(name), &Arc::default(), &Arc::default())
}

#[test]
fn a_bit_is_set_while_its_mode_is_in_force() {
    let (now, modes) = (clock::now(), Modes::default());
    let (a, b) = (cell(&modes, "a"), cell(&modes, "b"));
    assert_eq!((a.bit, b.bit, modes.in_force()), (1, 2, 0));
    modes.update(&b, true, vec![], now);
    modes.update(&b, true, vec![], now + S);
    assert_eq!((modes.in_force(), b.is_in_force(), a.is_in_force()), (2, true, false));
    let manual = TriggerOverride { active: true, until: None };
    modes.set_override(&a, Some(manual), AuditNote::default(), now + S);
    assert_eq!(modes.in_force(), 3);
    modes.update(&b, false, vec![], now + 2 * S);
    modes.update(&b, false, vec![], now + 4 * S);
    assert_eq!(modes.in_force(), 1);
    let (episodes, count) = modes.episodes_since(0);
    assert_eq!((count, episodes[0].mode.as_str(), episodes[1].mode.as_str()), (2, "b", "a"));
    assert!(episodes[0].ended().is_some_and(|end| end.took == 3 * S && end.by == "condition"));
    assert!(episodes[1].ended().is_none() && modes.episodes_since(2).0.is_empty());
}

#[test]
fn a_reload_keeps_a_mode_by_name_and_drops_removed_ones() {
    let (now, modes) = (clock::now(), Modes::default());
    let a = cell(&modes, "a");
    modes.set_override(
        &a,
        Some(TriggerOverride { active: true, until: None }),
        AuditNote::default(),
        now,
    );
    assert!(Arc::ptr_eq(&a, &cell(&modes, "a")));
    drop(a);
    modes.forget_unused();
    for cell in modes.all() {
        modes.remove(&cell, now + S);
    }
    assert_eq!(modes.in_force(), 0);
    modes.forget_unused();
    assert!(!cell(&modes, "a").is_in_force());
    assert_eq!(modes.episodes_since(0).0[0].ended().map(|end| end.by), Some("removed"));
}

#[test]
fn bits_are_reused_when_all_are_taken() {
    let modes = Modes::default();
    let cells: Vec<_> = (0..70).map(|n| cell(&modes, &n.to_string())).collect();
    let bits = cells.iter().take(64).fold(0, |bits, cell| bits | cell.bit);
    assert_eq!(bits, u64::MAX);
    assert!(cells.iter().all(|cell| cell.bit.count_ones() == 1));
}

#[test]
fn a_mode_that_returns_starts_over() {
    let (now, modes) = (clock::now(), Modes::default());
    let kept = cell(&modes, "a");
    // The condition has held for half of its time when the policy drops the mode.
    modes.update(&kept, true, vec![], now);
    modes.set_override(
        &kept,
        Some(TriggerOverride { active: false, until: None }),
        AuditNote::default(),
        now,
    );
    modes.remove(&kept, now + S / 2);
    let again = cell(&modes, "a");
    modes.update(&again, true, vec![], now + S);
    assert!(!again.is_in_force() && again.status(now + S).manual_override.is_none());
    modes.update(&again, true, vec![], now + 2 * S);
    assert!(again.is_in_force());
}

#[test]
fn reported_changes_are_not_reported_again() {
    let (now, modes) = (clock::now(), Modes::default());
    let a = cell(&modes, "a");
    assert_eq!(a.unreported_changes(), 0);
    modes.set_override(
        &a,
        Some(TriggerOverride { active: true, until: None }),
        AuditNote::default(),
        now,
    );
    assert_eq!(a.unreported_changes(), 1);
    a.mark_reported();
    assert_eq!(cell(&modes, "a").unreported_changes(), 0);
}
