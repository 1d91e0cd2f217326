//! One attempt at an endpoint, and the decision about what follows it.

mod connect;
pub mod context;
pub mod hedge;
pub mod inspect;
mod late;
mod obstacles;
pub mod pending_response;
mod prebuffer;
pub mod report;
mod response_class;
pub mod retry;
pub mod select;
pub mod send;
pub mod state;
mod wait;
