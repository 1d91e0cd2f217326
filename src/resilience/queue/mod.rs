//! The queue of requests waiting for capacity.
//!
//! - `wait_queue`: requests join and leave; `dispatch`: capacity is offered to them.
//! - `waiters`: the bounds of a queue, which reject or displace a request.
//! - `gate`, `stride`, `flow_fifo`: the order of providers, classes and flows.
//! - `drain_rate`: the estimate of a wait, for `Retry-After`.

pub mod dispatch;
pub mod drain_rate;
pub mod flow_fifo;
pub mod gate;
pub mod stride;
pub mod wait_queue;
pub mod waiters;
