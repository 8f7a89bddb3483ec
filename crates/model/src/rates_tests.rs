//! Buckets, windows and throttles against models that count in the plainest way.

use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A small generator: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[test]
fn no_amount_is_no_limit() {
    assert_eq!(Rate::per_second(0, 5), None);
    assert_eq!(Rate::per_second(5, 0).unwrap().burst(), 1);
    assert_eq!(Rate::new(1, Duration::ZERO, 1).unwrap().per(), ms(1));
    let mut bucket = Bucket::default();
    let burst = Rate::at_most(0, 2);
    let went = (0..100).filter(|i| bucket.take(&burst, Duration::from_secs(i * 3600), 1));
    assert_eq!(went.count(), 2);
    assert_eq!(Some(Rate::at_most(3, 4)), Rate::per_second(3, 4));
}

#[test]
fn rates_are_read_as_they_are_written() {
    let read = |text: &str| text.parse::<Rate>();
    assert_eq!(read("20/s"), Ok(Rate::per_second(20, 20).unwrap()));
    assert_eq!(
        read(" 50/s burst 200"),
        Ok(Rate::per_second(50, 200).unwrap())
    );
    let minute = Rate::new(100, Duration::from_secs(60), 100).unwrap();
    assert_eq!(
        [read("100/60 s"), read("100/min"), read("1_00 / 60000ms")],
        [Ok(minute); 3]
    );
    for bad in [
        "",
        "20",
        "20/",
        "20/0 s",
        "0/s",
        "/s",
        "20/fortnight",
        "20/s burst",
        "-1/s",
        "+1/s",
        "99999999999/s",
        "1/9999999999 h",
        "1/2000 h",
    ] {
        assert_eq!(read(bad), Err(RateError), "{bad}");
    }
    let window = Window::from(minute);
    assert_eq!((window.most, window.span), (100, Duration::from_secs(60)));
}

proptest::proptest! {
    #[test]
    fn what_is_shown_of_a_rate_can_be_read(amount in 1u32.., per in 1u64..4_000_000_000, burst in 1u32.., text in ".*") {
        let rate = Rate::new(amount, ms(per), burst).unwrap();
        assert_eq!(rate.to_string().parse(), Ok(rate));
        let _ = text.parse::<Rate>();
    }
}

#[test]
fn a_bucket_agrees_with_one_that_counts_every_millisecond() {
    let mut numbers = Numbers(7);
    for _ in 0..200 {
        let (amount, burst) = (numbers.below(40) + 1, numbers.below(20) + 1);
        let per = [100, 1000, 60_000][numbers.below(3) as usize];
        let rate = Rate::new(amount as u32, ms(per), burst as u32).unwrap();
        let mut bucket = Bucket::default();
        // Tokens in `per`ths: each millisecond brings `amount` of them.
        let (mut level, mut at) = (burst * per, 0);
        for _ in 0..200 {
            let now = at + numbers.below(per / 4 + 2);
            for _ in at..now {
                level = (level + amount).min(burst * per);
            }
            at = now;
            let n = numbers.below(burst + 2);
            let expected = level >= n * per;
            if expected {
                level -= n * per;
            }
            assert_eq!(bucket.take(&rate, ms(now), n as u32), expected);
            let full = bucket.full_at(&rate);
            assert!(full.as_millis() as u64 >= now || level == burst * per);
            let mut later = bucket;
            assert!(
                later.take(&rate, full, burst as u32),
                "full when it says so"
            );
        }
    }
}

#[test]
fn in_no_span_of_time_more_goes_through_than_the_rule_says() {
    let mut numbers = Numbers(11);
    for _ in 0..50 {
        let (amount, burst) = (numbers.below(30) + 1, numbers.below(30) + 1);
        let rate = Rate::per_second(amount as u32, burst as u32).unwrap();
        let mut bucket = Bucket::default();
        let mut now = 0;
        let mut went: Vec<u64> = Vec::new();
        for _ in 0..500 {
            now += numbers.below(60);
            if bucket.take(&rate, ms(now), 1) {
                went.push(now);
            }
        }
        for (first, from) in went.iter().enumerate() {
            for (last, to) in went.iter().enumerate().skip(first) {
                let most = burst + (to - from) * amount / 1000 + 1;
                assert!(((last - first) as u64) < most);
            }
        }
    }
}

#[test]
fn what_is_larger_than_a_burst_goes_through_once_and_is_paid_for() {
    let rate = Rate::per_second(100, 50).unwrap();
    let mut bucket = Bucket::default();
    assert!(!bucket.take(&rate, ms(0), 51));
    assert!(bucket.spend(&rate, ms(0), 500));
    assert!(!bucket.spend(&rate, ms(4_500), 1), "it owes 450");
    assert!(bucket.spend(&rate, ms(4_510), 1));
    assert_eq!(bucket.full_at(&rate), ms(5_010));
    bucket.give_back(&rate, 50);
    assert_eq!(bucket.full_at(&rate), ms(4_510));
}

#[test]
fn huge_numbers_and_clocks_that_go_back_do_no_harm() {
    let rate = Rate::new(u32::MAX, ms(u64::MAX), u32::MAX).unwrap();
    let mut bucket = Bucket::default();
    assert!(bucket.take(&rate, Duration::MAX, u32::MAX));
    assert!(!bucket.take(&rate, ms(5), 1));
    let slow = Rate::new(1, ms(u64::MAX), 1).unwrap();
    assert!(bucket.full_at(&slow) <= ms(u64::MAX));
    let window = Window {
        most: 1,
        span: Duration::MAX,
    };
    let mut fixed = FixedWindow::default();
    assert!(fixed.take(&window, ms(5)) && !fixed.take(&window, ms(3)));
    assert!(fixed.ends_at(&window) <= ms(u64::MAX));
}

/// C18: 100 in 60 s.
#[test]
fn a_fixed_window_agrees_with_one_that_keeps_every_request() {
    let window = Window {
        most: 100,
        span: Duration::from_secs(60),
    };
    let mut fixed = FixedWindow::default();
    let mut numbers = Numbers(3);
    let (mut began, mut went) = (None::<u64>, Vec::new());
    let mut now = 0;
    let mut refused = 0;
    for _ in 0..5_000 {
        now += numbers.below(900);
        if began.is_none_or(|began| now - began >= 60_000) {
            began = Some(now);
            went.clear();
        }
        let expected = went.len() < 100;
        if expected {
            went.push(now);
        } else {
            refused += 1;
        }
        assert_eq!(fixed.take(&window, ms(now)), expected);
    }
    assert!(refused > 100, "the window was full now and then");
    let none = Window {
        most: 0,
        span: ms(10),
    };
    assert!(!FixedWindow::default().take(&none, ms(1)));
}

/// C16: at most 20 a second, and the last position is always told.
#[test]
fn a_throttle_lets_the_first_and_the_last_through() {
    let every = ms(50);
    let mut numbers = Numbers(5);
    let mut throttle = Throttle::default();
    let (mut now, mut went, mut last) = (0, Vec::<(u64, u64)>::new(), 0);
    for value in 1..2_000 {
        let next = now + numbers.below(30);
        // The timer rings when it is due, if it is before the next one comes.
        if let Some(at) = throttle.next()
            && at <= ms(next)
        {
            let kept = throttle.due(every, at).unwrap();
            went.push((at.as_millis() as u64, kept));
        }
        now = next;
        last = value;
        match throttle.offer(every, ms(now), value) {
            Throttled::Now(value) => went.push((now, value)),
            Throttled::Held(until) => {
                assert_eq!(throttle.next(), Some(until));
                assert_eq!(throttle.due(every, until - ms(1)), None);
            }
        }
    }
    if let Some(at) = throttle.next() {
        went.push((at.as_millis() as u64, throttle.due(every, at).unwrap()));
    }
    assert_eq!(went.last().map(|(_, value)| *value), Some(last));
    assert_eq!(went.first(), Some(&(went[0].0, 1)), "the first at once");
    assert!(went.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 50));
    assert!(
        went.windows(2).all(|pair| pair[1].1 > pair[0].1),
        "never back"
    );
    assert_eq!(throttle.due(every, ms(now + 10_000)), None);
}

#[test]
fn what_comes_late_replaces_what_was_kept() {
    let every = ms(50);
    let mut throttle = Throttle::default();
    assert_eq!(throttle.offer(every, ms(0), 1), Throttled::Now(1));
    assert_eq!(throttle.offer(every, ms(10), 2), Throttled::Held(ms(50)));
    assert_eq!(throttle.offer(every, ms(60), 3), Throttled::Now(3));
    assert_eq!((throttle.next(), throttle.idle_at()), (None, ms(110)));
}
