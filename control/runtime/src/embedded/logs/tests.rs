use futures::StreamExt;

use super::*;

const BOUNDS: LogBounds = LogBounds { line_bytes: 8, file_bytes: 256, bytes_per_second: 1 << 20 };

fn write(writer: &mut Writer, text: &[u8]) {
    let mut splitter = Splitter::new(LogStream::Stdout, BOUNDS);
    splitter.feed(1, text, writer).unwrap();
    splitter.finish(1, writer).unwrap();
}

async fn texts(lines: crate::LogLines) -> Vec<String> {
    lines.map(|line| String::from_utf8(line.unwrap().text.to_vec()).unwrap()).collect().await
}

async fn read(dir: &Path, containers: &[&str]) -> Vec<String> {
    let names: Vec<String> = containers.iter().map(ToString::to_string).collect();
    texts(tail::lines(dir.to_owned(), dir, &names, false).unwrap()).await
}

#[tokio::test]
async fn long_lines_are_cut_at_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(path(dir.path(), "web"), 4096).unwrap();
    write(&mut writer, b"12345678\n123456789\n\nlast");
    assert_eq!(read(dir.path(), &["web"]).await, ["12345678", "12345678", "9", "", "last"]);
}

#[tokio::test]
async fn at_most_two_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(path(dir.path(), "web"), BOUNDS.file_bytes).unwrap();
    for number in 0..100 {
        write(&mut writer, format!("{number}\n").as_bytes());
    }
    let sizes: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(sizes <= 2 * BOUNDS.file_bytes, "{sizes} bytes on disk");
    let lines = read(dir.path(), &["web"]).await;
    let newest: Vec<String> = (100 - lines.len()..100).map(|number| number.to_string()).collect();
    assert!(lines.len() > 10, "{lines:?}");
    assert_eq!(lines, newest);
}

#[tokio::test]
async fn containers_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    for (name, times) in [("a", [1, 4, 5]), ("b", [2, 3, 6])] {
        let mut writer = Writer::create(path(dir.path(), name), 4096).unwrap();
        for at in times {
            writer.line(at, LogStream::Stderr, true, at.to_string().as_bytes()).unwrap();
        }
    }
    assert_eq!(read(dir.path(), &["a", "b"]).await, ["1", "2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn following_passes_over_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(path(dir.path(), "web"), BOUNDS.file_bytes).unwrap();
    let mut lines = tail::lines(dir.path().to_owned(), dir.path(), &["web".to_owned()], true).unwrap();
    write(&mut writer, b"first\n");
    assert_eq!(lines.next().await.unwrap().unwrap().text, "first");
    for number in 0..20 {
        write(&mut writer, format!("{number:06}\n").as_bytes());
    }
    assert!(rotated(&path(dir.path(), "web")).exists());
    // The pod's lock isn't held, so the stream ends with the existing lines.
    assert_eq!(texts(lines).await, (0..20).map(|number| format!("{number:06}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_written_after_the_request_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(path(dir.path(), "web"), BOUNDS.file_bytes).unwrap();
    let mut number = 0;
    let mut write_more = || {
        write(&mut writer, format!("{number:06}\n").as_bytes());
        number += 1;
    };
    (0..20).for_each(|_| write_more());
    assert!(rotated(&path(dir.path(), "web")).exists());
    // As fast as it is read, and faster than files are kept.
    for times in [1, 40] {
        let there = self::read(dir.path(), &["web"]).await;
        let mut lines = tail::lines(dir.path().to_owned(), dir.path(), &["web".to_owned()], false).unwrap();
        let mut read = Vec::new();
        while let Some(line) = lines.next().await {
            read.push(String::from_utf8(line.unwrap().text.to_vec()).unwrap());
            assert!(read.len() < 100, "it never ends");
            (0..times).for_each(|_| write_more());
        }
        assert_eq!(read, there);
    }
}
