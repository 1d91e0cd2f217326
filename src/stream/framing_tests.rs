use super::*;
use proptest::prelude::*;

fn all(format: StreamFormat, frames: &[&[u8]]) -> Vec<Piece> {
    let mut events = EventFramer::new(format);
    let mut pieces = Vec::new();
    for frame in frames {
        events.push(Bytes::copy_from_slice(frame));
        pieces.extend(events.by_ref());
    }
    pieces.extend(events.rest());
    pieces
}

fn events(format: StreamFormat, text: &str) -> Vec<(String, String)> {
    let text_of = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let events = all(format, &[text.as_bytes()]).into_iter().filter_map(|piece| match piece.kind {
        PieceKind::Event { name, data } => Some((text_of(&name), text_of(&data))),
        _ => None,
    });
    events.collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, d)| ((*n).to_owned(), (*d).to_owned())).collect()
}

#[test]
fn the_examples_of_the_standard_have_the_specified_events() {
    let sse = |text| events(StreamFormat::Sse, text);
    assert_eq!(sse("data: YHOO\ndata: +2\ndata: 10\n\n"), pairs(&[("", "YHOO\n+2\n10")]));
    let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
    assert_eq!(
        sse(stream),
        pairs(&[("", "first event"), ("", "second event"), ("", " third event")])
    );
    assert_eq!(sse("data\n\ndata\ndata\n\n"), pairs(&[("", ""), ("", "\n")]));
    assert_eq!(sse("event: add\rdata: 7\r\revent: x\r\n\r\n"), pairs(&[("add", "7")]));
    assert_eq!(sse("data: a\r\r\ndata: b\n\r\n"), pairs(&[("", "a"), ("", "b")]));
    assert_eq!(sse("\u{feff}data: a\r\n\r\ndata: b"), pairs(&[("", "a"), ("", "b")]));
}

#[test]
fn each_line_is_an_event_of_its_own() {
    let events = events(StreamFormat::Lines, "{\"a\":1}\r\n\n {\"b\":2}\n{\"c\":3}");
    assert_eq!(events, pairs(&[("", "{\"a\":1}"), ("", "{\"b\":2}"), ("", "{\"c\":3}")]));
}

#[test]
fn a_byte_order_mark_and_blanks_around_a_name_are_left_out() {
    assert_eq!(events(StreamFormat::Lines, "\u{feff}{\"a\":1}\n"), pairs(&[("", "{\"a\":1}")]));
    let stream = "event: error \t\ndata: x\n\n";
    assert_eq!(events(StreamFormat::Sse, stream), pairs(&[("error", "x")]));
}

#[test]
fn an_oversized_event_is_returned_unread_in_bounded_memory() {
    for format in [StreamFormat::Sse, StreamFormat::Lines] {
        let mut events = EventFramer::new(format);
        let mut returned = 0;
        for _ in 0..100 {
            events.push(Bytes::from(vec![b'x'; 10_000]));
            for piece in events.by_ref() {
                assert_eq!(piece.kind, PieceKind::Oversized { is_last: false });
                returned += piece.raw.len();
            }
            assert!(events.held.len() <= LONGEST + 10_000);
        }
        events.push(Bytes::from_static(b"\n\ndata: {}\n\n"));
        let last: Vec<_> = events.by_ref().collect();
        assert_eq!(last[0].kind, PieceKind::Oversized { is_last: true });
        assert_eq!(
            returned + last[0].raw.len(),
            1_000_000 + if format == StreamFormat::Sse { 2 } else { 1 }
        );
        assert!(matches!(
            last.last().expect("an event").kind,
            PieceKind::Event { .. } | PieceKind::NoData
        ));
    }
}

/// Lines with ends of any kind.
fn stream() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "data: ?[a-z{}:]{0,6}",
        1 => "event: [a-z]{1,4}",
        1 => ": [a-z]{0,4}",
        1 => "[a-z\u{feff}]{0,3}",
        4 => Just(String::new()),
    ];
    let end = || prop_oneof![4 => Just("\n"), 2 => Just("\r\n"), 2 => Just("\r"), 1 => Just("")];
    let lines = prop::collection::vec((line, end()), 0..16);
    (lines, end(), any::<bool>()).prop_map(|(lines, one, mixed)| {
        let ended = |(line, end): (String, &str)| line + if mixed { end } else { one };
        lines.into_iter().map(ended).collect()
    })
}

fn frames<'t>(text: &'t [u8], cuts: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn events_are_the_same_however_they_are_split(
        text in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        lines in any::<bool>(),
    ) {
        let format = if lines { StreamFormat::Lines } else { StreamFormat::Sse };
        let (whole, split) =
            (all(format, &[text.as_bytes()]), all(format, &frames(text.as_bytes(), &cuts)));
        prop_assert_eq!(&whole, &split);
        let raw: Vec<u8> = split.iter().flat_map(|piece| piece.raw.to_vec()).collect();
        prop_assert_eq!(raw, text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whether_an_event_is_oversized_does_not_depend_on_where_it_is_split(
        more in -4isize..5, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        end in prop_oneof![Just("\n\n"), Just("\r\n\r\n"), Just("\r\r")],
    ) {
        let length = LONGEST.saturating_add_signed(more) - end.len();
        let text = "x".repeat(length) + end + "data: y" + end;
        let pieces = all(StreamFormat::Sse, &frames(text.as_bytes(), &cuts));
        let long = pieces.iter().filter(|piece| matches!(piece.kind, PieceKind::Oversized { .. }));
        let long: usize = long.map(|piece| piece.raw.len()).sum();
        prop_assert_eq!(long, if more > 0 { length + end.len() } else { 0 });
        let last = PieceKind::Event { name: Bytes::new(), data: "y".into() };
        prop_assert_eq!(&pieces[pieces.len() - 1].kind, &last);
    }
}
