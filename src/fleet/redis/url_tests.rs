use super::*;

#[test]
fn an_address_is_displayed_without_its_secrets() {
    for (url, display) in [
        ("redis://me:word@r.internal:7000/2", "redis://r.internal:7000/2"),
        ("redis://:word@[::1]", "redis://[::1]"),
        ("unix:///run/redis.sock?pass=word", "unix:///run/redis.sock"),
        ("redis+sentinel://:word@a:1,b/main?sentinel_password=word", "redis+sentinel://a:1,b/main"),
        ("redis+cluster://:word@a,b:2", "redis+cluster://a,b:2"),
    ] {
        let address = RedisAddress::read(url).expect(url);
        assert_eq!((address.display(), format!("{address:?}").contains("word")), (display, false));
    }
}

#[test]
fn an_invalid_url_is_rejected_with_the_reason() {
    for (url, reason) in [
        ("127.0.0.1:6379", "no `://`"),
        ("http://r", "not a scheme"),
        ("redis://", "not a host"),
        ("redis://r:port", "not a host"),
        ("redis://r/first", "not a database"),
        ("redis://a,b", "several hosts"),
        ("redis://r?cat=1", "not an option"),
        ("redis://r?ca=/nowhere.pem", "cannot be read"),
        ("redis+sentinel://a:1", "no server name"),
        ("redis://:%zz@r", "hexadecimal"),
        ("env:OUTRIGGER_NO_SUCH_VARIABLE", "is not set"),
        ("file:/no/such/file", "/no/such/file"),
    ] {
        let error = RedisAddress::read(url).expect_err(url).to_string();
        assert!(error.contains(reason), "{url}: {error}");
    }
}

#[test]
fn percent_encoded_bytes_are_decoded() {
    assert_eq!(percent_decode("p%40ss%2Fword").expect("text"), "p@ss/word");
}
