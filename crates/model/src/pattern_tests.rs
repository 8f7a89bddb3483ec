use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

/// Part by part, letter by letter: nothing shared with the real one but the meaning.
fn naive_fit(pattern: &str, name: &str) -> bool {
    fn letters(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*'] => !name.is_empty() && !name.contains(&':'),
            ['*', ':', rest @ ..] => (1..name.len()).any(|end| {
                name.get(end) == Some(&':')
                    && !name[..end].contains(&':')
                    && letters(rest, &name[end + 1..])
            }),
            [first, rest @ ..] => name
                .split_first()
                .is_some_and(|(c, name)| c == first && letters(rest, name)),
        }
    }
    let mut plain = String::new();
    let mut inside = false;
    for c in pattern.chars() {
        match c {
            '{' => inside = true,
            '}' => {
                inside = false;
                plain.push('*');
            }
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    let letter = |text: &str| text.chars().collect::<Vec<char>>();
    letters(&letter(&plain), &letter(name))
}

fn part_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab.]{1,3}",
        "[ab.]{0,2}\\*",
        Just("*".to_owned()),
        Just("{".to_owned()),
    ]
}

fn pattern_text() -> impl Strategy<Value = String> {
    prop::collection::vec(part_text(), 1..4).prop_map(|parts| {
        let numbered = parts.iter().enumerate().map(|(i, part)| match &**part {
            "{" => format!("{{p{i}}}"),
            other => other.to_owned(),
        });
        numbered.collect::<Vec<_>>().join(":")
    })
}

proptest! {
    #[test]
    fn fits_what_the_naive_one_fits(text in pattern_text(), name in "[ab.]{0,3}(:[ab.]{0,3}){0,3}") {
        prop_assert_eq!(pattern(&text).fit(&name).is_some(), naive_fit(&text, &name));
    }

    #[test]
    fn the_order_of_two_patterns_is_that_of_the_names_they_fit(
        a in pattern_text(),
        b in pattern_text(),
        names in prop::collection::vec("[ab.]{1,3}(:[ab.]{1,3}){0,2}", 40),
    ) {
        let (a, b) = (pattern(&a), pattern(&b));
        let both = names.iter().filter(|name| a.fit(name).is_some() && b.fit(name).is_some()).count();
        match a.overlap(&b) {
            Overlap::Apart => prop_assert_eq!(both, 0),
            Overlap::Narrower => {
                prop_assert_eq!(a.precedence(&b), Ordering::Less);
                prop_assert!(names.iter().all(|name| a.fit(name).is_none() || b.fit(name).is_some()));
            }
            Overlap::Wider => {
                prop_assert_eq!(a.precedence(&b), Ordering::Greater);
                prop_assert!(names.iter().all(|name| b.fit(name).is_none() || a.fit(name).is_some()));
            }
            Overlap::Ambiguous => {}
        }
        let mirrored = match a.overlap(&b) {
            Overlap::Narrower => Overlap::Wider,
            Overlap::Wider => Overlap::Narrower,
            other => other,
        };
        prop_assert_eq!(b.overlap(&a), mirrored);
    }

    #[test]
    fn never_panics(text in ".{0,40}", name in ".{0,40}") {
        if let Ok(pattern) = text.parse::<Pattern>() {
            let _ = pattern.fit(&name);
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}

#[test]
fn gives_the_values_of_parameters() {
    let conversation = pattern("workspace:{workspaceId}:conversation:{conversationId}");
    let values = conversation.fit("workspace:w1:conversation:c9").unwrap();
    assert_eq!(values.as_slice(), ["w1", "c9"]);
    assert_eq!(conversation.fit("workspace:w1:conversation:"), None);
    assert_eq!(conversation.fit("workspace:w1:conversation:c:9"), None);
    assert!(pattern("key:tasks.*").fit("key:tasks.list").is_some());
    assert!(pattern("key:tasks.*").fit("key:tasks.").is_none());
}

#[test]
fn the_most_specific_wins_and_what_is_ambiguous_is_known() {
    let order = |a: &str, b: &str| pattern(a).overlap(&pattern(b));
    assert_eq!(order("room:lobby", "room:*"), Overlap::Narrower);
    assert_eq!(order("room:{id}", "room:l*"), Overlap::Wider);
    assert_eq!(order("room:*", "room:{id}"), Overlap::Ambiguous);
    assert_eq!(order("a:*:c", "a:b:*"), Overlap::Ambiguous);
    assert_eq!(order("room:a*", "room:b*"), Overlap::Apart);
    assert_eq!(order("room:*", "room:*:x"), Overlap::Apart);
    assert_eq!(order("room:a*", "room:a"), Overlap::Apart);
}

#[test]
fn says_why_a_text_is_no_pattern() {
    for (bad, why) in [
        ("", PatternError::EmptyPart),
        ("room:", PatternError::EmptyPart),
        ("room:**", PatternError::Part("**".into())),
        ("room:*x", PatternError::Part("*x".into())),
        ("room:{}", PatternError::Part("{}".into())),
        ("room:{1}", PatternError::Part("{1}".into())),
        ("room:{a}b", PatternError::Part("{a}b".into())),
        ("room:{a}:{a}", PatternError::Twice("a".into())),
        ("org:*", PatternError::Reserved("org".into())),
        ("tenant:{t}:orders", PatternError::Reserved("tenant".into())),
    ] {
        assert_eq!(bad.parse::<Pattern>(), Err(why), "{bad}");
    }
    assert_eq!(
        "x".repeat(256).parse::<Pattern>(),
        Err(PatternError::TooLong)
    );
    assert_eq!(
        "x:".repeat(17).parse::<Pattern>(),
        Err(PatternError::TooLong)
    );
}
