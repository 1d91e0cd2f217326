//! How jobs are written as arguments of scripts, and read from their answers. What cannot be read is
//! somebody else's, and told as such.

use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value};

use super::redis::{
    BorrowedJob, Claim, ClaimReply, FetchedOutcome, JobDescriptor, JobOutcome, PartitionEntry,
    TakeReply,
};
use crate::fleet::redis::connection::RedisCallError;
use crate::store::{JobId, StoredRequest, StoredResponse};

/// Arguments, in order.
#[derive(Debug, Default)]
pub(crate) struct ScriptArgs(pub(crate) Vec<Vec<u8>>);

impl ScriptArgs {
    pub(crate) fn text(&mut self, value: impl ToString) {
        self.0.push(value.to_string().into_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.push(value.to_vec());
    }

    pub(crate) fn place(&mut self, place: &PartitionEntry) {
        self.text(place.id);
        self.text(&place.line);
        self.text(place.since);
        self.text(place.expires.as_millis());
    }

    pub(crate) fn notice(&mut self, notice: &JobDescriptor) {
        self.place(&notice.place);
        self.text(notice.keep.as_millis());
        self.text(notice.attempts);
        self.text(notice.deliveries);
        self.text(&notice.request.method);
        self.text(&notice.request.uri);
        self.bytes(&notice.request.headers);
        self.bytes(&notice.request.body);
        self.bytes(&notice.flow);
    }

    pub(crate) fn end(&mut self, end: &JobOutcome) {
        match end {
            JobOutcome::Answered(answer) => {
                self.text("done");
                self.text(answer.status);
                self.bytes(&answer.headers);
                self.bytes(&answer.body);
                self.text(u8::from(answer.cut));
                self.text("");
            }
            JobOutcome::Dead(why) => {
                ["dead", "0", "", "", "0"].iter().for_each(|none| self.text(none));
                self.text(why);
            }
        }
    }
}

pub(crate) fn list(of: &[Value], at: usize) -> Result<&[Value], RedisCallError> {
    match of.get(at) {
        Some(Value::Array(list)) => Ok(list),
        other => Err(odd("a list", other)),
    }
}

/// A number, written as one or as text.
pub(crate) fn number<T: FromRedisValue>(of: &[Value], at: usize) -> Result<T, RedisCallError> {
    let value = of.get(at).ok_or_else(|| odd("a number", None))?;
    T::from_redis_value_ref(value).map_err(|_| odd("a number", Some(value)))
}

fn bytes(of: &[Value], at: usize) -> Result<&[u8], RedisCallError> {
    match of.get(at) {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        other => Err(odd("bytes", other)),
    }
}

fn text(of: &[Value], at: usize) -> Result<String, RedisCallError> {
    bytes(of, at).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn length(of: &[Value], at: usize) -> Result<Duration, RedisCallError> {
    number(of, at).map(Duration::from_millis)
}

pub(crate) fn id(value: &Value) -> Result<JobId, RedisCallError> {
    let text = String::from_redis_value_ref(value).map_err(|_| odd("an id", Some(value)))?;
    text.parse().map_err(|_| odd("an id", Some(value)))
}

fn id_at(of: &[Value], at: usize) -> Result<JobId, RedisCallError> {
    id(of.get(at).unwrap_or(&Value::Nil))
}

/// Of a body nothing is told.
fn odd(wanted: &str, found: Option<&Value>) -> RedisCallError {
    let found = match found {
        None => "nothing",
        Some(Value::Array(_)) => "a list",
        Some(Value::BulkString(_)) => "a text",
        Some(_) => "something else",
    };
    RedisCallError::Odd(format!("{found} (expected {wanted})"))
}

pub(crate) fn claimed(answer: &[Value]) -> Result<ClaimReply, RedisCallError> {
    Ok(match bytes(answer, 0)? {
        b"mine" => ClaimReply::Mine(claim(answer, 1)?),
        b"elsewhere" => ClaimReply::Elsewhere(length(answer, 1)?),
        b"ended" => ClaimReply::Ended,
        b"unknown" => ClaimReply::Unknown(number(answer, 1)?),
        _ => return Err(odd("mine, elsewhere, ended or unknown", answer.first())),
    })
}

fn claim(of: &[Value], at: usize) -> Result<Claim, RedisCallError> {
    Ok(Claim {
        number: number(of, at)?,
        attempts: number(of, at + 1)?,
        deliveries: number(of, at + 2)?,
    })
}

pub(crate) fn taken(answer: &[Value]) -> Result<TakeReply, RedisCallError> {
    let loans = list(answer, 0)?;
    // What cannot be read is not begun, and dead when it was taken often enough.
    let loans = (0..loans.len()).filter_map(|at| list(loans, at).and_then(loan).ok());
    let due: i64 = number(answer, 2)?;
    Ok(TakeReply {
        loans: loans.collect(),
        ended: number(answer, 1)?,
        due: u64::try_from(due).ok().map(Duration::from_millis),
    })
}

fn loan(of: &[Value]) -> Result<BorrowedJob, RedisCallError> {
    Ok(BorrowedJob {
        id: id_at(of, 0)?,
        owner: text(of, 1)?,
        line: text(of, 2)?,
        claim: claim(of, 3)?,
        expires: length(of, 6)?,
        keep: length(of, 7)?,
        request: StoredRequest {
            method: text(of, 8)?,
            uri: text(of, 9)?,
            headers: bytes(of, 10)?.to_vec(),
            body: Bytes::copy_from_slice(bytes(of, 11)?),
        },
        flow: bytes(of, 12)?.to_vec(),
    })
}

pub(crate) fn ended(of: &[Value]) -> Result<FetchedOutcome, RedisCallError> {
    let (id, attempts, deliveries) = (id_at(of, 0)?, number(of, 1)?, number(of, 2)?);
    Ok(FetchedOutcome { id, attempts, deliveries, end: end(of).ok() })
}

fn end(of: &[Value]) -> Result<JobOutcome, RedisCallError> {
    Ok(match bytes(of, 3)? {
        b"done" => JobOutcome::Answered(StoredResponse {
            status: number(of, 4)?,
            headers: bytes(of, 5)?.to_vec(),
            body: Bytes::copy_from_slice(bytes(of, 6)?),
            cut: number::<u8>(of, 7)? == 1,
        }),
        _ => JobOutcome::Dead(text(of, 8)?),
    })
}
