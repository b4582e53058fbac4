//! Requests and answers as lines.

use super::*;

fn line(text: &str) -> Result<Request, FsError> {
    Request::decode(text.as_bytes())
}

#[test]
fn names_of_any_bytes_come_back() {
    for name in [&b"plain"[..], b"", "grün".as_bytes(), b"\xff\x00\"\n", b"[1,2]"] {
        let request = Request::new(Ask::Log { path: Raw(name.to_vec()) });
        assert!(!request.encode().contains(&b'\n'), "one line");
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
}

#[test]
fn the_wire_form_is_what_other_programs_may_rely_on() {
    let ask = Ask::Purge { before: Moment::At(Stamp(7)), path: None, dry_run: true };
    let text = r#"{"version":1,"ask":{"purge":{"before":{"at":7},"path":null,"dry_run":true}}}"#;
    assert_eq!(Request::new(ask.clone()).encode(), text.as_bytes());
    assert_eq!(line(text), Ok(Request::new(ask)));
    assert_eq!(line(r#"{"version":1,"ask":"sync"}"#), Ok(Request::new(Ask::Sync)));
}

#[test]
fn another_version_is_refused_by_number_even_where_its_words_are_unknown() {
    let Err(FsError::Io(why)) = line(r#"{"version":9,"ask":{"dance":{}}}"#) else { panic!() };
    assert!(why.contains("version 9"), "{why}");
    assert!(line(r#"{"version":1,"ask":{"dance":{}}}"#).is_err());
    assert!(line("").is_err());
}

#[test]
fn only_done_and_error_end_an_answer() {
    let answer = Answer::Error(Failure::from(&FsError::NoSpace));
    let back = Answer::decode(&answer.encode()).unwrap();
    assert!(back.is_last());
    assert!(matches!(back, Answer::Error(Failure { kind: FailureKind::NoSpace, .. })));
    assert!(!Answer::Freed(Freed::default()).is_last());
}
