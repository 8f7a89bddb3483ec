//! Well-formed inputs to begin with.

/// Messages of pgoutput, protocol version 1.
pub fn wal_messages() -> Vec<Vec<u8>> {
    let number = |n: u64| n.to_be_bytes().to_vec();
    let tuple = |values: &[Option<&str>]| {
        let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                Some(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
                None => out.push(b'n'),
            }
        }
        out
    };
    let relation = [
        &b"R"[..],
        &[0, 0, 64, 1],
        b"public\0tasks\0d\0\x03",
        b"\x01id\0\0\0\0\x17\xff\xff\xff\xff",
        b"\0title\0\0\0\0\x19\xff\xff\xff\xff",
        b"\0done\0\0\0\0\x10\xff\xff\xff\xff",
    ]
    .concat();
    let row = tuple(&[Some("7"), Some("Paint the door"), None]);
    let key = tuple(&[Some("7"), None, None]);
    let table = [0, 0, 64, 1];
    vec![
        [&b"B"[..], &number(0x16b_3748), &number(1), &[0, 0, 2, 0]].concat(),
        [
            &b"C\0"[..],
            &number(0x16b_3748),
            &number(0x16b_3778),
            &number(1),
        ]
        .concat(),
        relation,
        [&b"Y\0\0\x40\x07"[..], b"public\0mood\0"].concat(),
        [&b"O"[..], &number(1), b"origin\0"].concat(),
        [&b"I"[..], &table, b"N", &row].concat(),
        [&b"U"[..], &table, b"N", &row].concat(),
        [&b"U"[..], &table, b"K", &key, b"N", &row].concat(),
        [&b"U"[..], &table, b"O", &row, b"N", b"\0\x02nu"].concat(),
        [&b"D"[..], &table, b"K", &key].concat(),
        [&b"D"[..], &table, b"O", &row].concat(),
        [&b"T\0\0\0\x01\0"[..], &table].concat(),
        [&b"M\x01"[..], &number(9), b"rowcast\0\0\0\0\x02{}"].concat(),
    ]
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Frames that clients send: those of the protocol page.
pub fn client_frames() -> Vec<Vec<u8>> {
    let page = include_str!("../../docs/protocol.md");
    let blocks = page.split("```json client\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap().lines());
    lines.map(|line| line.as_bytes().to_vec()).collect()
}

/// Filters.
pub fn filters() -> Vec<Vec<u8>> {
    bytes(&[
        r#"{"column":"id","op":"eq","value":7}"#,
        r#"{"column":"id","op":"neq","value":"7.0"}"#,
        r#"{"column":"title","op":"like","value":"a%\\_b_"}"#,
        r#"{"column":"title","op":"in","value":["a","b",null]}"#,
        r#"{"column":"done","op":"is","value":null}"#,
        r#"{"column":"done","op":"eq","value":true}"#,
        r#"{"and":[{"column":"id","op":"gte","value":-1.5e3},{"not":{"or":[{"column":"id","op":"lt","value":10},{"column":"title","op":"lte","value":"m"}]}}]}"#,
        r#"{"and":[]}"#,
        r#"{"or":[]}"#,
    ])
}

/// Values in the text form of Postgres.
pub fn values() -> Vec<Vec<u8>> {
    bytes(&[
        "7",
        "-12.50",
        "1e+30",
        "NaN",
        "Infinity",
        "t",
        "f",
        r#"{"a":[1,{"b":null}],"c":"\u00e9"}"#,
        "2026-03-01 12:00:00.123456+00",
        "0044-03-15 12:00:00 BC",
        "infinity",
        r#"{1,NULL,"a \"quoted\" \\ one",{2,3}}"#,
        "[0:1]={a,b}",
        "{{1,2},{3,4}}",
        r#"(1,"two, three",,"a ""b""")"#,
        r#"{"(1,a)","(2,b)"}"#,
        "\\x00ff",
        "",
    ])
}

/// Table events as log messages.
pub fn table_events() -> Vec<Vec<u8>> {
    bytes(&[
        r#"{"v":1,"t":16385,"op":"INSERT","n":2,"org":"x"}"#,
        r#"{"v":1,"t":16385,"op":"UPDATE","n":2,"orgs":["a",null],"old":["a","b"]}"#,
        r#"{"v":1,"t":16385,"op":"DELETE","n":2,"orgs":["a","b"],"users":["u",null]}"#,
        r#"{"v":1,"t":16385,"op":"UPDATE","n":1,"orgs":["a"],"users":["u"],"old_users":["v"]}"#,
        r#"{"v":1,"t":16385,"op":"INSERT","n":20000,"bulk":["a","b"]}"#,
        r#"{"v":1,"t":16385,"op":"TRUNCATE","n":0}"#,
        r#"{"v":1,"t":16386,"op":"INSERT","n":2,"org":"x","ids":["1","2"]}"#,
    ])
}
