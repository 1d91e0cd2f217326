use super::*;
use crate::resilience::queue::stride::bound;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const WEIGHTS: [u32; 4] = [8, 4, 2, 1];

fn new_queue() -> WaitQueue {
    let mut queue = WaitQueue::default();
    for id in 0..2 {
        queue.set_queue(
            id,
            QueuePolicy {
                max_waiting: 1_000_000,
                max_bytes: 1 << 40,
                max_wait: 3600 * SECOND,
                weights: WEIGHTS.to_vec(),
            },
        );
    }
    queue
}

fn group(providers: &[u32]) -> GroupKey {
    GroupKey { queue: 0, providers: providers.into(), state: 0 }
}

fn entry(providers: &[u32], class: usize, flow: u64, now: Instant) -> QueueEntry {
    let group = group(providers);
    QueueEntry { group, class, flow, bytes: 1, arrived: now, until: now + 3600 * SECOND }
}

fn enter(queue: &mut WaitQueue, entry: QueueEntry) -> Ticket {
    let now = entry.arrived;
    queue.enqueue(entry, now).expect("there is a place").0
}

/// Capacity for one at a provider: the waiter that is served.
fn go(queue: &mut WaitQueue, provider: u32, now: Instant) -> Option<Ticket> {
    queue.capacity_available(provider, now);
    let first = queue.gates.get(&provider).and_then(Gate::offered_to)?;
    queue.served(first, provider, now);
    // The next offer is declined, so that each capacity is announced separately.
    if let Some(next) = queue.gates.get(&provider).and_then(Gate::offered_to) {
        queue.decline(next, provider, now);
    }
    Some(first)
}

#[test]
fn classes_are_served_by_their_weights() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let mut class = BTreeMap::new();
    for n in 0..400 {
        let ticket = enter(&mut queue, entry(&[1], n % 4, 0, t0));
        class.insert(ticket, n % 4);
    }
    let mut served = [0; 4];
    for _ in 0..150 {
        served[class[&go(&mut queue, 1, t0).expect("many wait")]] += 1;
    }
    assert_eq!(served, [80, 40, 20, 10]);
}

#[test]
fn a_change_during_a_check_causes_another_check() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let one = enter(&mut queue, entry(&[1], 0, 0, t0));
    queue.conditions_changed(1, t0);
    queue.block_group(one, 1, t0 + 3600 * SECOND, t0);
    assert!(queue.has_new_offer(one), "what it saw may be over");
    queue.block_group(one, 1, t0 + 3600 * SECOND, t0);
    assert!(!queue.has_new_offer(one));
    queue.conditions_changed(1, t0);
    assert!(queue.has_new_offer(one));
}

#[test]
fn a_waiter_for_a_full_provider_delays_no_other_provider() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let first = enter(&mut queue, entry(&[1], 0, 0, t0));
    queue.decline(first, 1, t0);
    let other = enter(&mut queue, entry(&[2], 3, 0, t0 + SECOND));
    let both = enter(&mut queue, entry(&[1, 2], 3, 0, t0 + 2 * SECOND));
    assert_eq!(go(&mut queue, 2, t0), Some(other));
    assert_eq!(go(&mut queue, 2, t0), Some(both));
    assert_eq!(go(&mut queue, 2, t0), None);
    assert_eq!(go(&mut queue, 1, t0), Some(first));
    assert!(queue.waiters.is_empty());
}

#[test]
fn the_first_waiter_gets_the_offer_and_then_the_next() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let one = enter(&mut queue, entry(&[1], 1, 0, t0));
    let two = enter(&mut queue, entry(&[1], 1, 0, t0));
    assert_eq!((queue.offers(one), queue.offers(two)), (vec![1], vec![]));
    queue.served(one, 1, t0);
    assert_eq!((queue.take_woken(), queue.offers(two)), (vec![two], vec![1]));
}

#[test]
fn capacity_during_a_check_causes_another_check() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let one = enter(&mut queue, entry(&[1], 1, 0, t0));
    queue.capacity_available(1, t0);
    queue.decline(one, 1, t0);
    assert_eq!((queue.take_woken(), queue.offers(one)), (vec![one], vec![1]));
    queue.decline(one, 1, t0);
    assert_eq!((queue.take_woken(), queue.offers(one)), (vec![], vec![]));
}

#[test]
fn a_deferred_waiter_keeps_the_offer_until_one_with_precedence_arrives() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let low = enter(&mut queue, entry(&[1], 3, 0, t0));
    queue.defer(low, 1, t0 + SECOND, t0);
    queue.capacity_available(1, t0);
    assert_eq!((queue.take_woken(), queue.next_check(low)), (vec![], Some(t0 + SECOND)));
    let high = enter(&mut queue, entry(&[1], 0, 0, t0));
    assert_eq!((queue.offers(low), queue.offers(high)), (vec![], vec![1]));
    queue.defer(high, 1, t0 + SECOND, t0);
    queue.expire_timers(high, t0 + SECOND);
    assert_eq!((queue.take_woken(), queue.offers(high)), (vec![high], vec![1]));
}

#[test]
fn a_blocked_group_lets_others_pass_and_unblocks_in_time() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let held = GroupKey { state: 7, ..group(&[1]) };
    let one = enter(&mut queue, QueueEntry { group: held.clone(), ..entry(&[1], 0, 0, t0) });
    let same = enter(&mut queue, QueueEntry { group: held, ..entry(&[1], 0, 0, t0) });
    let other = enter(&mut queue, entry(&[1], 3, 0, t0));
    queue.block_group(one, 1, t0 + SECOND, t0);
    assert_eq!(go(&mut queue, 1, t0), Some(other));
    assert_eq!(go(&mut queue, 1, t0), None);
    queue.expire_timers(one, t0 + SECOND);
    assert_eq!(go(&mut queue, 1, t0), Some(one));
    assert_eq!(go(&mut queue, 1, t0), Some(same));
}

#[test]
fn a_waiter_that_blocked_its_group_unblocks_it_when_it_leaves() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let one = enter(&mut queue, entry(&[1], 0, 0, t0));
    let two = enter(&mut queue, entry(&[1], 0, 0, t0));
    queue.block_group(one, 1, t0 + SECOND, t0);
    assert_eq!(queue.offers(two), Vec::<u32>::new());
    queue.remove(one, t0);
    assert_eq!((queue.take_woken(), queue.offers(two)), (vec![two], vec![1]));
}

#[test]
fn a_paused_queue_gets_no_offers_until_it_is_resumed() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    queue.pause(0, true, t0);
    let one = enter(&mut queue, entry(&[1], 0, 0, t0));
    assert_eq!(go(&mut queue, 1, t0), None);
    queue.pause(0, false, t0);
    assert_eq!((queue.take_woken(), queue.offers(one)), (vec![one], vec![1]));
}

#[test]
fn a_request_that_would_wait_too_long_is_rejected_at_once() {
    let (t0, mut queue) = (Instant::now(), new_queue());
    let mut now = t0;
    for _ in 0..100 {
        enter(&mut queue, entry(&[1], 1, 0, t0));
    }
    for _ in 0..20 {
        now += 100 * MS;
        go(&mut queue, 1, now);
    }
    let soon = QueueEntry { until: now + SECOND, ..entry(&[1], 1, 0, now) };
    assert_eq!(queue.enqueue(soon.clone(), now), Err(QueueRejection::TooLong(8 * SECOND)));
    assert!(queue.enqueue(QueueEntry { flow: 9, ..soon.clone() }, now).is_ok());
    let backlog = queue.backlog(&[1], 60 * SECOND, now).expect("some were served");
    assert!((7 * SECOND..9 * SECOND).contains(&backlog), "{backlog:?}");
}

/// A reference implementation of the queue: lists that are searched.
#[derive(Debug, Default)]
struct Plain {
    waiting: Vec<(Ticket, GroupKey, usize, u64)>,
    /// Of each provider: passes by class, the current one, groups of each class by their last service.
    pass: BTreeMap<(u32, usize), f64>,
    current: BTreeMap<u32, f64>,
    /// When each flow of a group and class was last served, or arrived.
    flows: BTreeMap<(GroupKey, usize, u64), u64>,
    steps: u64,
}

impl Plain {
    fn of(
        &self,
        provider: u32,
        class: usize,
    ) -> impl Iterator<Item = &(Ticket, GroupKey, usize, u64)> {
        let at = move |w: &&(Ticket, GroupKey, usize, u64)| w.1.providers.contains(&provider);
        self.waiting.iter().filter(at).filter(move |w| w.2 == class)
    }

    fn enter(&mut self, ticket: Ticket, group: &GroupKey, class: usize, flow: u64) {
        self.steps += 1;
        for provider in &group.providers {
            if self.of(*provider, class).next().is_none() {
                let current = self.current.get(provider).copied().unwrap_or(0.0);
                let pass = self.pass.entry((*provider, class)).or_default();
                *pass = pass.max(current);
            }
        }
        let same = |w: &(Ticket, GroupKey, usize, u64)| (&w.1, w.2, w.3) == (group, class, flow);
        if !self.waiting.iter().any(same) {
            self.flows.insert((group.clone(), class, flow), self.steps);
        }
        self.waiting.push((ticket, group.clone(), class, flow));
    }

    fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|w| w.0 != ticket);
        for gate in 0..3 {
            if (0..4).all(|class| self.of(gate, class).next().is_none()) {
                self.pass.retain(|(at, _), _| *at != gate);
                self.current.remove(&gate);
            }
        }
    }

    /// Whether this one is a right choice: its class has the least pass, its flow waited longest for
    /// its turn in its group, it is the oldest of its flow.
    fn goes(&mut self, provider: u32, ticket: Ticket) {
        self.steps += 1;
        let found = self.waiting.iter().find(|w| w.0 == ticket).cloned();
        let (_, group, class, flow) = found.expect("it waits");
        let pass = |class: usize| self.pass.get(&(provider, class)).copied().unwrap_or(0.0);
        for other in (0..4).filter(|other| self.of(provider, *other).next().is_some()) {
            assert!(pass(class) <= pass(other) + 1e-6, "class {class} before {other}");
        }
        let same_group = || self.of(provider, class).filter(|w| w.1 == group);
        let turn = |flow: u64| self.flows[&(group.clone(), class, flow)];
        assert!(same_group().all(|w| turn(flow) <= turn(w.3)), "flow {flow} before its turn");
        assert!(same_group().filter(|w| w.3 == flow).all(|w| ticket <= w.0), "not the oldest");
        let own = pass(class);
        let current = self.current.entry(provider).or_default();
        *current = current.max(own);
        self.pass.insert((provider, class), own + 1.0 / f64::from(WEIGHTS[class]));
        self.flows.insert((group, class, flow), self.steps);
        self.leave(ticket);
    }
}

/// One of 10 runs of 100,000 steps.
fn against_the_plain_model(seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    const GROUPS: [&[u32]; 4] = [&[0], &[1], &[0, 1], &[1, 2]];
    let (t0, mut queue, mut plain) = (Instant::now(), new_queue(), Plain::default());
    let mut here: Vec<Ticket> = Vec::new();
    let mut passed: BTreeMap<(u32, usize), u64> = BTreeMap::new();
    for step in 0..100_000u64 {
        let now = t0 + Duration::from_micros(step);
        // The waiters grows and shrinks by turns.
        let grows = u64::from(step / 500 % 2 == 0);
        match draw(10) {
            0..=4 if here.len() < 60 && draw(4) <= 2 * grows + 1 => {
                let (providers, class) = (GROUPS[draw(4) as usize], draw(4) as usize);
                let ticket = enter(&mut queue, entry(providers, class, draw(3), now));
                let flow = queue.waiters[&ticket].request.flow;
                plain.enter(ticket, &group(providers), class, flow);
                for provider in providers {
                    if plain.of(*provider, class).count() == 1 {
                        passed.insert((*provider, class), 0);
                    }
                }
                queue.offers(ticket).into_iter().for_each(|at| queue.decline(ticket, at, now));
                here.push(ticket);
            }
            5..=6 if !here.is_empty() => {
                let ticket = here.swap_remove(draw(here.len() as u64) as usize);
                queue.remove(ticket, now);
                plain.leave(ticket);
            }
            _ => {
                let provider = draw(3) as u32;
                let Some(ticket) = go(&mut queue, provider, now) else {
                    assert!((0..4).all(|class| plain.of(provider, class).next().is_none()));
                    continue;
                };
                let class = plain.waiting.iter().find(|w| w.0 == ticket).expect("it waits").2;
                plain.goes(provider, ticket);
                here.retain(|other| *other != ticket);
                for other in (0..4).filter(|other| *other != class) {
                    let waits = plain.of(provider, other).next().is_some();
                    let count = passed.entry((provider, other)).or_default();
                    *count = if waits { *count + 1 } else { 0 };
                    assert!(*count < bound(&WEIGHTS, other), "{other} was starved");
                }
                passed.insert((provider, class), 0);
            }
        }
        queue.take_woken();
        assert_eq!(queue.waiters.len(), here.len());
    }
    here.iter().for_each(|ticket| queue.remove(*ticket, t0));
    assert!(queue.waiters.is_empty() && queue.gates.is_empty() && queue.groups.is_empty());
    assert!(queue.group_ids.is_empty());
}

macro_rules! runs {
    ($($name:ident: $seed:literal),*) => { $(
        #[test]
        fn $name() {
            against_the_plain_model($seed);
        }
    )* };
}

runs!(
    it_does_as_the_plain_model_0: 1,
    it_does_as_the_plain_model_1: 2,
    it_does_as_the_plain_model_2: 3,
    it_does_as_the_plain_model_3: 4,
    it_does_as_the_plain_model_4: 5,
    it_does_as_the_plain_model_5: 6,
    it_does_as_the_plain_model_6: 7,
    it_does_as_the_plain_model_7: 8,
    it_does_as_the_plain_model_8: 9,
    it_does_as_the_plain_model_9: 10
);

proptest! {
    #[test]
    fn no_waiter_is_forgotten_for_any_check_result(
        steps in prop::collection::vec((0u8..8, 0usize..4, 0usize..4, 0u64..50), 1..200)
    ) {
        const GROUPS: [&[u32]; 4] = [&[0], &[1], &[0, 1], &[]];
        let (t0, mut queue) = (Instant::now(), new_queue());
        let (mut now, mut here) = (t0, Vec::<Ticket>::new());
        for (action, which, class, ms) in steps {
            now += Duration::from_millis(ms);
            let turns: Vec<_> =
                here.iter().flat_map(|t| queue.offers(*t).into_iter().map(|at| (*t, at))).collect();
            let turn = turns.get(class % turns.len().max(1)).copied();
            match (action, turn) {
                (0 | 1, _) => here.push(enter(&mut queue, entry(GROUPS[which], class, 0, now))),
                (2, Some((ticket, at))) => {
                    queue.served(ticket, at, now);
                    here.retain(|other| *other != ticket);
                }
                (3, Some((ticket, at))) => queue.defer(ticket, at, now + SECOND, now),
                (4, Some((ticket, at))) => queue.block_group(ticket, at, now + SECOND, now),
                (5, Some((ticket, _))) => queue.move_to_group(ticket, group(GROUPS[which]), now),
                (6, Some((ticket, _))) => {
                    queue.remove(ticket, now);
                    here.retain(|other| *other != ticket);
                }
                (7, _) => queue.capacity_available(which as u32 % 2, now),
                _ => {}
            }
            // Time passes for those who wait for it.
            for ticket in &here {
                if queue.next_check(*ticket).is_some_and(|at| at <= now) {
                    queue.expire_timers(*ticket, now);
                }
            }
            for provider in 0..2 {
                let waits = here.iter().any(|ticket| {
                    let (_, group, _) = queue.position(*ticket).expect("it waits");
                    queue.providers(group).contains(&provider) && queue.is_open(provider, group)
                });
                prop_assert_eq!(queue.first(provider, now).is_some(), waits);
            }
        }
        // In the end there is room for all.
        now += 2 * SECOND;
        here.iter().for_each(|ticket| queue.expire_timers(*ticket, now));
        for ticket in here.clone() {
            queue.move_to_group(ticket, group(&[0]), now);
        }
        while let Some(ticket) = go(&mut queue, 0, now) {
            here.retain(|other| *other != ticket);
        }
        prop_assert!(here.is_empty() && queue.waiters.is_empty());
    }
}
