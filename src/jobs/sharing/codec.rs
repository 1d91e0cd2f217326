//! Encodes jobs as script arguments, and decodes script replies. A reply that cannot be decoded is
//! an error, because another version may have written it.

use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value};

use super::redis::{
    BorrowedJob, Claim, ClaimReply, FetchedOutcome, JobDescriptor, JobOutcome, PartitionEntry,
    TakeReply,
};
use crate::fleet::redis::connection::RedisCallError;
use crate::store::{JobContent, JobId, StoredRequest, StoredResponse};

/// Script arguments, in order.
#[derive(Debug, Default)]
pub(crate) struct ScriptArgs(pub(crate) Vec<Vec<u8>>);

impl ScriptArgs {
    pub(crate) fn text(&mut self, value: impl ToString) {
        self.0.push(value.to_string().into_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.push(value.to_vec());
    }

    pub(crate) fn entry(&mut self, entry: &PartitionEntry) {
        self.text(entry.id);
        self.text(&entry.partition);
        self.text(entry.ready_in);
        self.text(entry.expires.as_millis());
    }

    pub(crate) fn descriptor(&mut self, job: &JobDescriptor) {
        let JobContent { request, flow } = &job.content;
        self.entry(&job.entry);
        self.text(job.keep.as_millis());
        self.text(job.attempts);
        self.text(job.deliveries);
        self.text(&request.method);
        self.text(&request.uri);
        self.bytes(&request.headers);
        self.bytes(&request.body);
        self.bytes(flow);
    }

    pub(crate) fn outcome(&mut self, outcome: &JobOutcome) {
        match outcome {
            JobOutcome::Done(response) => {
                self.text("done");
                self.text(response.status);
                self.bytes(&response.headers);
                self.bytes(&response.body);
                self.text(u8::from(response.cut));
                self.text("");
            }
            JobOutcome::Dead(reason) => {
                ["dead", "0", "", "", "0"].iter().for_each(|empty| self.text(empty));
                self.text(reason);
            }
        }
    }
}

pub(crate) fn list(of: &[Value], at: usize) -> Result<&[Value], RedisCallError> {
    match of.get(at) {
        Some(Value::Array(list)) => Ok(list),
        other => Err(unexpected("a list", other)),
    }
}

/// A number, or text that contains one.
pub(crate) fn number<T: FromRedisValue>(of: &[Value], at: usize) -> Result<T, RedisCallError> {
    let value = of.get(at).ok_or_else(|| unexpected("a number", None))?;
    T::from_redis_value_ref(value).map_err(|_| unexpected("a number", Some(value)))
}

fn bytes(of: &[Value], at: usize) -> Result<&[u8], RedisCallError> {
    match of.get(at) {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        other => Err(unexpected("bytes", other)),
    }
}

fn text(of: &[Value], at: usize) -> Result<String, RedisCallError> {
    bytes(of, at).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn millis(of: &[Value], at: usize) -> Result<Duration, RedisCallError> {
    number(of, at).map(Duration::from_millis)
}

pub(crate) fn id(value: &Value) -> Result<JobId, RedisCallError> {
    let text = String::from_redis_value_ref(value).map_err(|_| unexpected("an id", Some(value)))?;
    text.parse().map_err(|_| unexpected("an id", Some(value)))
}

fn id_at(of: &[Value], at: usize) -> Result<JobId, RedisCallError> {
    id(of.get(at).unwrap_or(&Value::Nil))
}

/// Names the type only: the value may be a body.
fn unexpected(expected: &str, found: Option<&Value>) -> RedisCallError {
    let found = match found {
        None => "nothing",
        Some(Value::Array(_)) => "a list",
        Some(Value::BulkString(_)) => "a text",
        Some(_) => "another type",
    };
    RedisCallError::Unexpected(format!("{found} (expected {expected})"))
}

pub(crate) fn claim_reply(reply: &[Value]) -> Result<ClaimReply, RedisCallError> {
    Ok(match bytes(reply, 0)? {
        b"claimed" => ClaimReply::Claimed(claim(reply, 1)?),
        b"elsewhere" => ClaimReply::Elsewhere(millis(reply, 1)?),
        b"ended" => ClaimReply::Ended,
        b"unknown" => ClaimReply::Unknown(number(reply, 1)?),
        _ => return Err(unexpected("claimed, elsewhere, ended or unknown", reply.first())),
    })
}

fn claim(of: &[Value], at: usize) -> Result<Claim, RedisCallError> {
    Ok(Claim {
        number: number(of, at)?,
        attempts: number(of, at + 1)?,
        deliveries: number(of, at + 2)?,
    })
}

pub(crate) fn take_reply(reply: &[Value]) -> Result<TakeReply, RedisCallError> {
    let jobs = list(reply, 0)?;
    // A job that cannot be decoded does not start; it is dead once it was taken often enough.
    let jobs = (0..jobs.len()).filter_map(|at| list(jobs, at).and_then(borrowed_job).ok());
    let next_due: i64 = number(reply, 2)?;
    Ok(TakeReply {
        jobs: jobs.collect(),
        results_waiting: number(reply, 1)?,
        next_due: u64::try_from(next_due).ok().map(Duration::from_millis),
    })
}

fn borrowed_job(of: &[Value]) -> Result<BorrowedJob, RedisCallError> {
    Ok(BorrowedJob {
        id: id_at(of, 0)?,
        owner: text(of, 1)?,
        partition: text(of, 2)?,
        claim: claim(of, 3)?,
        expires: millis(of, 6)?,
        keep: millis(of, 7)?,
        request: StoredRequest {
            method: text(of, 8)?,
            uri: text(of, 9)?,
            headers: bytes(of, 10)?.to_vec(),
            body: Bytes::copy_from_slice(bytes(of, 11)?),
        },
        flow: bytes(of, 12)?.to_vec(),
    })
}

pub(crate) fn fetched_outcome(of: &[Value]) -> Result<FetchedOutcome, RedisCallError> {
    let (id, attempts, deliveries) = (id_at(of, 0)?, number(of, 1)?, number(of, 2)?);
    Ok(FetchedOutcome { id, attempts, deliveries, outcome: outcome(of).ok() })
}

fn outcome(of: &[Value]) -> Result<JobOutcome, RedisCallError> {
    Ok(match bytes(of, 3)? {
        b"done" => JobOutcome::Done(StoredResponse {
            status: number(of, 4)?,
            headers: bytes(of, 5)?.to_vec(),
            body: Bytes::copy_from_slice(bytes(of, 6)?),
            cut: number::<u8>(of, 7)? == 1,
        }),
        _ => JobOutcome::Dead(text(of, 8)?),
    })
}
