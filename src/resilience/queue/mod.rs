//! The queue of requests waiting for capacity: bounds, fairness, dispatch.

pub mod dispatch;
pub mod drain_rate;
pub mod flow_fifo;
pub mod gate;
pub mod stride;
pub mod wait_queue;
pub mod waiters;
