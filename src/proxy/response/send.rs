//! The commit: from here on the client receives the response, and no other attempt is made.

use bytes::Bytes;
use http::Response;
use http_body::Frame;

use super::body::ResponseBody;
use super::fan_out::FanOut;
use super::stored::FollowerBody;
use super::stream::{StreamOrigin, Streaming};
use super::upgrade;
use crate::proxy::access_log::reasons::RequestEnd;
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::attempt::context::ProxyRequest;
use crate::proxy::attempt::pending_response::{PendingBody, PendingResponse};
use crate::proxy::downstream::header_marks::HeaderMarks;
use crate::proxy::downstream::problem::Problem;
use crate::proxy::request::headers;

/// Turns the outcome of a request into its response.
pub fn send(
    mut request: Box<ProxyRequest>,
    outcome: Result<Box<PendingResponse>, Problem>,
) -> Response<ResponseBody> {
    request.record.bytes_in = request.body.len();
    let PendingResponse { mut head, body, idle, last_frame, usage_key, is_local } = match outcome {
        Ok(response) => *response,
        Err(problem) => return send_problem(&mut request.record, problem),
    };
    request.record.status = head.status.as_u16();
    if !matches!(body, PendingBody::Whole(_, None) | PendingBody::Stored(_)) {
        request.record.first_byte = Some(request.record.age());
    }
    request.record.add_degraded_header(&mut head.headers);
    match is_local {
        true => {
            // A policy may set any header.
            let marks = HeaderMarks::of(&head.headers);
            headers::end_hop(&mut head.headers, marks, false);
            request.record.request_id.add_to_local(&mut head.headers);
        }
        false => request.record.request_id.add_to(&mut head.headers),
    }
    Response::from_parts(
        head,
        begin_body(request, body, StreamOrigin { idle, last_frame, usage_key }),
    )
}

/// Begins to send the body; ends the access record if the body is already complete.
fn begin_body(
    mut request: Box<ProxyRequest>,
    body: PendingBody,
    origin: StreamOrigin,
) -> ResponseBody {
    match body {
        PendingBody::Whole(bytes, None) => {
            request.record.bytes_out = bytes.len() as u64;
            request.record.finish(RequestEnd::Complete);
            ResponseBody::full(bytes)
        }
        PendingBody::Whole(bytes, Some(trailers)) => {
            let frames = [Frame::data(bytes), Frame::trailers(trailers)].into();
            ResponseBody::Stream(Box::new(Streaming::whole(request, frames, origin)))
        }
        PendingBody::Stream(mut stream) => {
            let recorder = stream.recorder.take();
            let streaming = Box::new(Streaming::begun(request, stream, origin));
            match recorder {
                Some(recorder) => FanOut::body(streaming, recorder),
                None => ResponseBody::Stream(streaming),
            }
        }
        PendingBody::Stored(cached) => {
            request.record.bytes_out = cached.remaining();
            request.record.finish(RequestEnd::Complete);
            ResponseBody::Cached(cached, request.client.extend_response())
        }
        PendingBody::Followed(reader) => {
            ResponseBody::Follower(Box::new(FollowerBody::new(reader, request)))
        }
        PendingBody::Tunnel { flight, rest } => {
            let ProxyRequest { head, record, client, .. } = *request;
            let tunnel = upgrade::start(head.into_upgrade(), rest, flight, record);
            tunnel.into_iter().for_each(|tunnel| client.upgrade(tunnel));
            ResponseBody::full(Bytes::new())
        }
    }
}

/// Responds with a problem.
pub fn send_problem(record: &mut AccessRecord, problem: Problem) -> Response<ResponseBody> {
    record.status = problem.kind.status().as_u16();
    let kind = problem.kind;
    let mut response = problem.into_response_to(&record.request_id);
    record.add_degraded_header(response.headers_mut());
    record.set_local_body(response.body().len());
    record.finish(RequestEnd::LocalResponse(kind));
    response.map(ResponseBody::full)
}
