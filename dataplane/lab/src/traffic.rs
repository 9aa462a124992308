//! Reads what the lab's clients report: how answers spread, what failed when.

use std::collections::BTreeMap;

use crate::agent::load::Request;

/// Answers by name, from lines such as `web-1 saw 10.244.1.5`.
pub fn answers_by_name(text: &str) -> BTreeMap<String, u64> {
    let mut answers = BTreeMap::new();
    for name in text.lines().filter_map(|line| line.split_once(" saw ").map(|(name, _)| name)) {
        *answers.entry(name.to_string()).or_insert(0) += 1;
    }
    answers
}

/// As a person would say it: `web-1 302, web-2 299`.
pub fn spread(answers: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if parts.is_empty() { "no answers".to_string() } else { parts.join(", ") }
}

/// How far, in per cent of an equal share, the worst is off; a name that did not answer is off by 100.
pub fn worst_share_percent(answers: &BTreeMap<String, u64>, names: usize) -> f64 {
    let total: u64 = answers.values().sum();
    let share = total as f64 / names.max(1) as f64;
    if total == 0 || answers.len() < names {
        return 100.0;
    }
    answers.values().map(|&count| (count as f64 - share).abs() / share * 100.0).fold(0.0, f64::max)
}

/// The name and the address in an answer such as `web-1 saw 10.244.1.5`.
pub fn seen(answer: &str) -> Option<(&str, &str)> {
    answer.trim().split_once(" saw ")
}

/// Requests that were started inside a time.
pub fn started(requests: &[Request], from_us: u64, to_us: u64) -> impl Iterator<Item = &Request> {
    requests.iter().filter(move |request| (from_us..to_us).contains(&request.started_us))
}

/// The first failure among these, with how many there are.
pub fn failures<'a>(requests: impl Iterator<Item = &'a Request>) -> (u64, Option<&'a str>) {
    let mut count = 0;
    let mut first = None;
    for error in requests.filter_map(|request| request.answer.as_ref().err()) {
        count += 1;
        first = first.or(Some(error.as_str()));
    }
    (count, first)
}

/// When the last request that was answered had been started.
pub fn last_answered_us(requests: &[Request]) -> Option<u64> {
    requests.iter().filter(|request| request.answer.is_ok()).map(|request| request.started_us).max()
}

/// When the first answer to a request started at or after `from_us` was complete.
pub fn first_answer_us(requests: &[Request], from_us: u64) -> Option<u64> {
    let answered = requests.iter().filter(|request| request.started_us >= from_us && request.answer.is_ok());
    answered.map(|request| request.started_us + request.took_us).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(started_us: u64, answer: Result<&str, &str>) -> Request {
        Request { started_us, took_us: 5, answer: answer.map(str::to_string).map_err(str::to_string) }
    }

    #[test]
    fn answers_are_counted_by_name() {
        let answers = answers_by_name("web-1 saw 10.0.0.1\nweb-2 saw 10.0.0.1\nweb-1 saw 10.0.0.1\ngarbage\n");
        assert_eq!(spread(&answers), "web-1 2, web-2 1");
    }

    #[test]
    fn a_share_is_judged_against_all_who_should_answer() {
        let answers = answers_by_name("a saw x\na saw x\na saw x\nb saw x\n");
        assert_eq!(worst_share_percent(&answers, 2), 50.0);
        assert_eq!(worst_share_percent(&answers, 3), 100.0);
        assert_eq!(worst_share_percent(&BTreeMap::new(), 3), 100.0);
    }

    #[test]
    fn failures_are_told_by_their_start() {
        let requests = [request(10, Ok("a")), request(20, Err("refused")), request(30, Err("late"))];
        assert_eq!(failures(started(&requests, 0, 30)), (1, Some("refused")));
        assert_eq!(last_answered_us(&requests), Some(10));
        assert_eq!(first_answer_us(&requests, 5), Some(15));
        assert_eq!(first_answer_us(&requests, 11), None);
    }
}
