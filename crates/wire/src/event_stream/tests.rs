use super::*;
use crate::{server, text_frame};
use proptest::prelude::*;
use rowcast_model::{Epoch, Lsn};

fn at(lsn: u64) -> Cursor {
    Cursor::after_commit(Epoch(1), Lsn(lsn))
}

/// Writes everything to a socket that takes `sizes` bytes at a time, over and over.
fn written(stream: &mut EventStream, frames: &[Frame], sizes: &[usize]) -> Vec<u8> {
    let mut waiting: std::collections::VecDeque<Frame> = frames.iter().cloned().collect();
    let mut sizes = sizes.iter().cycle();
    let mut out = Vec::new();
    while !waiting.is_empty() {
        let plan = stream.plan(waiting.iter().map(|frame| &frame[..]));
        let all: Vec<u8> = plan.pieces().flatten().copied().collect();
        let taken = all.len().min(*sizes.next().unwrap());
        out.extend_from_slice(&all[..taken]);
        let mut consumed = stream.written(&plan, taken);
        while let Some(front) = waiting.front_mut() {
            if consumed < front.len() {
                bytes::Buf::advance(front, consumed);
                break;
            }
            consumed -= front.len();
            waiting.pop_front();
        }
    }
    out
}

fn stream(channels: &[&str]) -> EventStream {
    let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
    let places = CursorList::nowhere(channels.len());
    EventStream::new(Vec::new(), &channels, places)
}

fn text(stream: &mut EventStream, frames: &[Frame]) -> String {
    String::from_utf8(written(stream, frames, &[usize::MAX])).unwrap()
}

#[test]
fn an_event_has_the_cursor_as_its_id() {
    let mut stream = stream(&["org:a"]);
    let frames = [
        server::subscribed(None, "org:a", &at(1)),
        server::status_live(),
        server::position(&at(2)),
    ];
    assert_eq!(
        text(&mut stream, &frames),
        "id: 00000001-1-z\ndata: {\"type\":\"subscribed\",\"channel\":\"org:a\",\"cursor\":\"00000001-1-z\"}\n\n\
         data: {\"type\":\"status\",\"state\":\"live\"}\n\n\
         id: 00000001-2-z\ndata: {\"type\":\"position\",\"cursor\":\"00000001-2-z\"}\n\n"
    );
}

#[test]
fn of_several_channels_the_id_says_where_each_is() {
    let mut stream = stream(&["org:a", "room:\"1"]);
    let ids = |text: String| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("id: "));
        lines.map(str::to_owned).collect()
    };
    let first = server::subscribed(None, "org:a", &at(1));
    assert!(ids(text(&mut stream, &[first])).is_empty());
    let frames = [
        server::subscribed(None, "room:\"1", &at(2)),
        server::commit("org:a", &at(3)),
        server::resync_after("room:\"1", "too_old", &at(4), 17),
        server::commit("org:b", &at(9)),
        server::position(&at(5)),
    ];
    assert_eq!(
        ids(text(&mut stream, &frames)),
        [
            "00000001-1-z,00000001-2-z",
            "00000001-3-z,00000001-2-z",
            "00000001-3-z,00000001-4-z",
            "00000001-5-z"
        ]
    );
}

#[test]
fn what_looks_like_a_cursor_inside_a_row_is_none() {
    let mut stream = stream(&["org:a"]);
    let json = br#"{"type":"postgres_changes","new":{"x":"y","cursor":"00000009-9-9","t":",\"cursor\":\"00000009-9-8"},"channel":"org:a","cursor":"00000001-1-0","unchanged":[",\"cursor\":\"a"],"last":true}"#;
    let text = text(&mut stream, &[text_frame(json)]);
    assert!(text.starts_with("id: 00000001-1-0\ndata: {"), "{text}");
}

#[test]
fn what_somebody_says_of_himself_is_no_cursor() {
    let mut stream = stream(&["org:a"]);
    let json = br#"{"type":"presence_diff","joins":[{"connections":{"1":{"a":1,"cursor":"00000009-9-9"}}}]}"#;
    let text = text(&mut stream, &[text_frame(json)]);
    assert!(text.starts_with("data: {"), "{text}");
}

#[test]
fn a_line_end_between_tokens_does_not_end_the_event() {
    let mut stream = stream(&["org:a"]);
    let json = b"{\"type\":\"broadcast\",\"payload\":{\n\n\"a\":\r1},\"channel\":\"org:a\",\"cursor\":\"00000001-1-0\"}";
    assert_eq!(
        text(&mut stream, &[text_frame(json)]),
        "id: 00000001-1-0\ndata: {\"type\":\"broadcast\",\"payload\":{  \"a\": 1},\"channel\":\"org:a\",\"cursor\":\"00000001-1-0\"}\n\n"
    );
}

#[test]
fn what_is_no_whole_frame_is_not_written() {
    let stream = stream(&["org:a"]);
    for bytes in [&b"\x81"[..], b"\x81\x05abc", b"\x81\x00"] {
        assert!(stream.plan([bytes]).is_empty());
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![
        "[a-z\\n]{1,40}".prop_map(String::into_bytes),
        (0_u64..9, 0_usize..300).prop_map(|(lsn, pad)| {
            let pad = "x".repeat(pad);
            let (channel, cursor) = (["org:a", "user:b"][pad.len() % 2], at(lsn));
            format!(r#"{{"type":"data","pad":"{pad}","channel":"{channel}","cursor":"{cursor}"}}"#)
                .into_bytes()
        }),
    ];
    payload.prop_map(|payload| text_frame(&payload))
}

proptest! {
    /// However the socket takes the bytes, they are the same, and each byte of the source counts once.
    #[test]
    fn any_pace_gives_the_same_text(
        frames in prop::collection::vec(frame(), 1..80),
        sizes in prop::collection::vec(1_usize..200, 1..20),
        several: bool,
    ) {
        let channels: &[&str] = if several { &["org:a", "user:b"] } else { &["org:a"] };
        let new = || EventStream { preface: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), ..stream(channels) };
        let at_once = written(&mut new(), &frames, &[usize::MAX]);
        let slowly = written(&mut new(), &frames, &sizes);
        prop_assert_eq!(&at_once, &slowly);
        let data = at_once.split(|b| *b == b'\n').filter(|line| line.starts_with(b"data: "));
        prop_assert_eq!(data.count(), frames.len());
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200), many in 0_usize..300) {
        let mut stream = stream(&["org:a", "user:b"]);
        let plan = stream.plan([&bytes[..]]);
        let consumed = stream.written(&plan, many);
        prop_assert!(consumed <= bytes.len());
    }
}
