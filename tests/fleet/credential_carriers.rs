//! Credentials in every carrier of a shared job: none is in Redis, in any store, or in the request
//! of another host.

use std::fs;

use crate::fixtures::chat;
use crate::jobs::{Hosts, accepted_path, id, pause, yaml};
use crate::scenario::beside_others;
use crate::support::carriers::{CARRIERS, request_text, secret};
use crate::support::message::find;
use crate::support::redis::Reply;
use crate::support::{Behaviour, Call, Gate, Origin, RedisServer};

/// Every key and value of a Redis, of each type.
fn dump(redis: &RedisServer) -> String {
    let script = "local all, by = {}, { hash = {'HGETALL'}, set = {'SMEMBERS'}, string = {'GET'}, \
                    list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1}, stream = {'XRANGE', '-', '+'} } \
                  for _, k in ipairs(redis.call('KEYS', '*')) do \
                    local read = by[redis.call('TYPE', k).ok] \
                    all[k] = redis.call(read[1], k, unpack(read, 2)) end \
                  return cjson.encode(all)";
    match redis.execute(&["EVAL", script, "0"]) {
        Reply::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_credential_of_a_shared_job_is_in_redis_or_in_a_store() {
    let _room = beside_others();
    let (redis, gate) = (RedisServer::start(), Gate::closed());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let hosts = Hosts::start(2, &redis, &yaml(&origin, "workers: 2"));
    let [owner, _] = &hosts.fleet[..] else { panic!("no hosts") };
    pause(owner);
    let carriers = || CARRIERS.into_iter().enumerate();
    let send =
        |call: Call, index: usize| owner.send(&CARRIERS[index].add_to(call, &secret(index, 'a')));
    let job = || chat().header("prefer", "respond-async");
    let paths: Vec<_> = carriers().map(|(index, _)| accepted_path(&send(job(), index))).collect();
    let last = id(&paths[CARRIERS.len() - 1]);
    owner.wait_until(|_| dump(&redis).contains(last));
    let published = dump(&redis);
    assert!(published.contains("messages"), "no job is in redis");
    gate.open_wide();
    for (index, carrier) in carriers() {
        let call = || Call::get(&paths[index]).header("prefer", "wait=20");
        assert_eq!(send(call(), index).status, 200, "{carrier:?}");
        assert_eq!(owner.send(&call()).status, 404, "{carrier:?}: of another principal");
    }
    let requests: Vec<_> = origin.requests().iter().map(request_text).collect();
    let stored = hosts.folders.iter().flat_map(|folder| {
        let files = fs::read_dir(folder.path()).expect("the folder of the store");
        let files = files.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
        files.flat_map(|path| fs::read(path).unwrap_or_default())
    });
    let mut output: Vec<u8> = stored.collect();
    for text in [published, dump(&redis), requests.join("\n"), redis.log()] {
        output.extend(text.into_bytes());
    }
    for (index, carrier) in carriers() {
        let found = find(&output, secret(index, 'a').as_bytes());
        assert_eq!(found, None, "{carrier:?}");
    }
}
