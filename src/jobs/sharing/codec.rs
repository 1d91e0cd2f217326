//! Encodes jobs as script arguments, and decodes script replies. A reply that cannot be decoded is
//! an error, because another version may have written it.

use std::time::Duration;

use redis::{FromRedisValue, ParsingError, RedisWrite, ToRedisArgs, Value, from_redis_value};

use super::redis::{BorrowedJob, Claim, ClaimReply, JobDescriptor, LeaseRef, PartitionEntry};
use crate::store::{JobContent, JobId, JobOutcome, RemoteOutcome, StoredRequest, StoredResponse};

/// A duration as an argument: milliseconds.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl ToRedisArgs for JobId {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl ToRedisArgs for PartitionEntry {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let PartitionEntry { id, partition, ready_in, expires } = self;
        (id, partition, ready_in, millis(*expires)).write_redis_args(out);
    }
}

impl ToRedisArgs for JobDescriptor {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let JobContent { request, flow } = &self.content;
        let runs = (millis(self.keep), self.attempts, self.deliveries);
        let StoredRequest { method, uri, headers, body } = request;
        (&self.entry, runs, method, uri, headers, &body[..], flow).write_redis_args(out);
    }
}

impl ToRedisArgs for LeaseRef {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        (self.id, self.number, &self.owner).write_redis_args(out);
    }
}

/// An outcome as arguments.
pub(crate) struct OutcomeArgs<'a>(pub(crate) &'a JobOutcome);

impl ToRedisArgs for OutcomeArgs<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        match self.0 {
            Ok(StoredResponse { status, headers, body, cut }) => {
                ("done", status, headers, &body[..], cut, "").write_redis_args(out);
            }
            Err(reason) => ("dead", 0, "", "", false, reason).write_redis_args(out),
        }
    }
}

impl FromRedisValue for JobId {
    fn from_redis_value(value: Value) -> Result<JobId, ParsingError> {
        Ok(String::from_redis_value(value)?.parse::<JobId>()?)
    }
}

impl FromRedisValue for ClaimReply {
    fn from_redis_value(value: Value) -> Result<ClaimReply, ParsingError> {
        let reply: Vec<String> = from_redis_value(value)?;
        let number = |at: usize| {
            let number = reply.get(at).and_then(|text| text.parse::<u64>().ok());
            number.ok_or_else(|| ParsingError::from("expected a number".to_owned()))
        };
        Ok(match reply.first().map_or("", String::as_str) {
            "claimed" => ClaimReply::Claimed(Claim {
                number: number(1)?,
                attempts: number(2)? as u32,
                deliveries: number(3)? as u32,
            }),
            "elsewhere" => ClaimReply::Elsewhere(Duration::from_millis(number(1)?)),
            "ended" => ClaimReply::Ended,
            "unknown" => ClaimReply::Unknown(number(1)?),
            _ => return Err("expected claimed, elsewhere, ended or unknown".to_owned().into()),
        })
    }
}

impl FromRedisValue for BorrowedJob {
    fn from_redis_value(value: Value) -> Result<BorrowedJob, ParsingError> {
        let fields: Vec<Value> = from_redis_value(value)?;
        let fields: [Value; 13] =
            fields.try_into().map_err(|_| ParsingError::from("expected 13 fields".to_owned()))?;
        let [id, owner, partition, number, attempts, deliveries, expires, keep, request @ ..] =
            fields;
        let [method, uri, headers, body, flow] = request;
        let claim = Claim {
            number: from_redis_value(number)?,
            attempts: from_redis_value(attempts)?,
            deliveries: from_redis_value(deliveries)?,
        };
        let request = StoredRequest {
            method: from_redis_value(method)?,
            uri: from_redis_value(uri)?,
            headers: from_redis_value(headers)?,
            body: from_redis_value::<Vec<u8>>(body)?.into(),
        };
        Ok(BorrowedJob {
            id: from_redis_value(id)?,
            owner: from_redis_value(owner)?,
            partition: from_redis_value(partition)?,
            claim,
            expires: Duration::from_millis(from_redis_value(expires)?),
            keep: Duration::from_millis(from_redis_value(keep)?),
            request,
            flow: from_redis_value(flow)?,
        })
    }
}

impl FromRedisValue for RemoteOutcome {
    fn from_redis_value(value: Value) -> Result<RemoteOutcome, ParsingError> {
        type Fields = (JobId, u32, u32, String, u16, Vec<u8>, Vec<u8>, bool, String);
        let (id, attempts, deliveries, end, status, headers, body, cut, reason): Fields =
            from_redis_value(value)?;
        let outcome = match end.as_str() {
            "done" => Ok(StoredResponse { status, headers, body: body.into(), cut }),
            _ => Err(reason),
        };
        Ok(RemoteOutcome { id, attempts, deliveries, outcome })
    }
}
