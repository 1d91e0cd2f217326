use super::*;

#[test]
fn what_is_secret_is_not_shown() {
    for (url, shown) in [
        ("redis://me:word@r.internal:7000/2", "redis://r.internal:7000/2"),
        ("redis://:word@[::1]", "redis://[::1]"),
        ("unix:///run/redis.sock?pass=word", "unix:///run/redis.sock"),
        ("redis+sentinel://:word@a:1,b/main?sentinel_password=word", "redis+sentinel://a:1,b/main"),
        ("redis+cluster://:word@a,b:2", "redis+cluster://a,b:2"),
    ] {
        let address = RedisAddress::read(url).expect(url);
        assert_eq!((address.shown(), format!("{address:?}").contains("word")), (shown, false));
    }
}

#[test]
fn what_names_no_redis_is_refused_by_what_is_wrong() {
    for (url, wrong) in [
        ("127.0.0.1:6379", "no `://`"),
        ("http://r", "no scheme"),
        ("redis://", "no host"),
        ("redis://r:port", "no host"),
        ("redis://r/first", "no database"),
        ("redis://a,b", "several hosts"),
        ("redis://r?cat=1", "no option"),
        ("redis://r?ca=/nowhere.pem", "cannot be read"),
        ("redis+sentinel://a:1", "no name of a server"),
        ("redis://:%zz@r", "hexadecimal"),
        ("env:OUTRIGGER_NO_SUCH_VARIABLE", "there is no variable"),
        ("file:/no/such/file", "/no/such/file"),
    ] {
        let error = RedisAddress::read(url).expect_err(url).to_string();
        assert!(error.contains(wrong), "{url}: {error}");
    }
}

#[test]
fn a_percent_stands_for_a_byte() {
    assert_eq!(decoded("p%40ss%2Fword").expect("text"), "p@ss/word");
}
