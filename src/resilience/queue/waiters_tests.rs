use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy(max_waiting: usize, max_bytes: u64) -> QueuePolicy {
    QueuePolicy { max_waiting, max_bytes, max_wait: 10 * SECOND, weights: vec![8, 4, 1] }
}

fn request(t0: Instant, number: u64, class: usize, flow: u64, bytes: u64) -> QueuedRequest {
    QueuedRequest {
        ticket: Ticket { arrived: t0 + Duration::from_millis(number), number },
        class,
        flow,
        bytes,
    }
}

/// Adds each request where it can join, in place of those it displaces.
fn join(
    waiters: &mut QueueWaiters,
    requests: &[QueuedRequest],
    t0: Instant,
) -> Vec<Result<Vec<u64>, QueueFullReason>> {
    let join = |one: &QueuedRequest| {
        let displaced = waiters.displaced_by(one)?;
        for ticket in &displaced {
            let found = requests.iter().find(|other| other.ticket == *ticket);
            waiters.remove(found.expect("it is a request"));
        }
        waiters.insert(one, t0);
        Ok(displaced.into_iter().map(|ticket| ticket.number).collect())
    };
    requests.iter().map(join).collect()
}

#[test]
fn a_higher_class_displaces_the_newest_of_the_lowest() {
    let (t0, mut waiters) = (Instant::now(), QueueWaiters::new(policy(3, 100)));
    let requests =
        [(0, 1), (1, 2), (2, 2), (3, 0), (4, 2)].map(|(n, class)| request(t0, n, class, 0, 1));
    let joined = join(&mut waiters, &requests, t0);
    assert_eq!(joined[3], Ok(vec![2]));
    assert_eq!(joined[4], Err(QueueFullReason::Queue));
    assert_eq!(waiters.waiting(), 3);
}

#[test]
fn no_flow_keeps_another_out_of_a_full_queue() {
    let (t0, mut waiters) = (Instant::now(), QueueWaiters::new(policy(4, 100)));
    let flows = [7, 7, 7, 7, 8, 8, 8, 7];
    let requests: Vec<_> = (0..).zip(flows).map(|(n, flow)| request(t0, n, 1, flow, 1)).collect();
    let joined = join(&mut waiters, &requests, t0);
    assert_eq!(joined[4..6], [Ok(vec![3]), Ok(vec![2])]);
    assert_eq!(joined[6..], [Err(QueueFullReason::Flow), Err(QueueFullReason::Flow)]);
}

#[test]
fn bytes_are_bounded_and_useless_displacement_is_avoided() {
    let (t0, mut waiters) = (Instant::now(), QueueWaiters::new(policy(10, 10)));
    let sizes = [(2, 3), (2, 3), (0, 4), (0, 5), (0, 7), (1, 11)];
    let requests: Vec<_> =
        (0..).zip(sizes).map(|(n, (class, bytes))| request(t0, n, class, 0, bytes)).collect();
    let joined = join(&mut waiters, &requests, t0);
    assert_eq!(joined[3], Ok(vec![1, 0]));
    assert_eq!(joined[4..], [Err(QueueFullReason::Queue), Err(QueueFullReason::Queue)]);
    assert_eq!((waiters.waiting(), waiters.bytes), (2, 9));
}

#[test]
fn after_half_of_max_wait_the_newest_go_first_until_the_class_is_empty() {
    let (t0, mut waiters) = (Instant::now(), QueueWaiters::new(policy(10, 10)));
    let requests = [request(t0, 0, 1, 0, 1), request(t0, 1, 1, 0, 1)];
    requests.iter().for_each(|one| waiters.insert(one, t0));
    assert!(!waiters.newest_first(1, t0 + 4 * SECOND));
    assert!(waiters.newest_first(1, t0 + 5 * SECOND));
    waiters.remove(&requests[0]);
    assert!(waiters.newest_first(1, t0));
    waiters.remove(&requests[1]);
    waiters.insert(&requests[0], t0 + 5 * SECOND);
    assert!(!waiters.newest_first(1, t0 + 5 * SECOND));
}

proptest! {
    #[test]
    fn counts_and_bytes_match_the_waiters_and_stay_in_bounds(
        steps in prop::collection::vec((0usize..3, 0u64..4, 0u64..30, any::<bool>()), 1..300)
    ) {
        let (t0, mut waiters) = (Instant::now(), QueueWaiters::new(policy(20, 200)));
        let mut here: Vec<QueuedRequest> = Vec::new();
        for (number, (class, flow, bytes, comes)) in (0..).zip(steps) {
            let one = request(t0, number, class, flow, bytes);
            if !comes && !here.is_empty() {
                let gone = here.swap_remove(number as usize % here.len());
                waiters.remove(&gone);
            } else if let Ok(displaced) = waiters.displaced_by(&one) {
                for ticket in displaced {
                    let at = here.iter().position(|other| other.ticket == ticket);
                    let gone = here.swap_remove(at.expect("a ticket is a request"));
                    prop_assert!(gone.class >= class);
                    waiters.remove(&gone);
                }
                waiters.insert(&one, t0);
                here.push(one);
            }
            prop_assert_eq!(waiters.waiting(), here.len());
            prop_assert_eq!(waiters.bytes, here.iter().map(|one| one.bytes).sum::<u64>());
            prop_assert!(waiters.waiting() <= 20 && waiters.bytes <= 200);
            for class in 0..3 {
                let count = here.iter().filter(|one| one.class == class).count();
                prop_assert_eq!(waiters.of_class(class).0, count);
                prop_assert_eq!(waiters.flows(class).map(|(_, len)| len).sum::<usize>(), count);
            }
        }
    }
}
