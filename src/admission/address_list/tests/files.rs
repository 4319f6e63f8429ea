use std::collections::HashMap;
use std::io;

use super::*;

/// Reads `main` of `files`, by name, and the others from there.
fn read(files: &[(&str, &str)]) -> Result<AddressList, Vec<String>> {
    let texts: HashMap<&Path, &str> = files
        .iter()
        .map(|(name, text)| (Path::new(*name), *text))
        .collect();
    let (main, text) = files[0];
    AddressList::parse_with(
        &Source::file(Path::new(main), text),
        &mut |path| match texts.get(path) {
            Some(text) => Ok((*text).to_owned()),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        },
    )
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_named_file_stands_in_its_place_in_the_order() {
    let list = read(&[
        ("conf/main", "10.0.0.0/8\n@ lists/more ; comment\n!10.1.1.1"),
        (
            "conf/lists/more",
            "; head\n!10.1.0.0/16\n@../last\n10.1.1.0/24",
        ),
        ("conf/lists/../last", "10.1.0.0/17"),
    ])
    .unwrap();
    let decided = |text: &str| {
        let decision = list.decide(address(text)).unwrap();
        let file = decision.file.to_str().unwrap();
        format!("{} {file}:{}", decision.listed, decision.line)
    };
    assert_eq!(decided("10.0.0.1"), "true conf/main:1");
    assert_eq!(decided("10.1.128.1"), "false conf/lists/more:2");
    assert_eq!(decided("10.1.2.1"), "true conf/lists/../last:1");
    assert_eq!(decided("10.1.1.2"), "true conf/lists/more:4");
    assert_eq!(decided("10.1.1.1"), "false conf/main:3");
    assert!(list.text().starts_with("10.0.0.0/8\n@ lists/more"));
}

#[test]
fn a_file_may_be_named_twice() {
    let list = read(&[("main", "@part\n!10.0.0.1\n@part"), ("part", "10.0.0.1")]).unwrap();
    assert!(list.contains(address("10.0.0.1")));
}

#[test]
fn an_absolute_name_stays_as_it_is() {
    let list = read(&[("conf/main", "@/srv/list"), ("/srv/list", "10.0.0.1")]).unwrap();
    assert!(list.contains(address("10.0.0.1")));
}

#[test]
fn errors_of_all_files_are_reported_in_order() {
    let errors = read(&[("main", "x1\n@part\n  @gone\nx2"), ("part", "10.0.0.1\n y")]).unwrap_err();
    assert_eq!(
        errors,
        [
            "main:1:1: expected an address, found `x1`: names are not looked up",
            "part:2:2: expected an address, found `y`: names are not looked up",
            "main:3:4: cannot read gone: entity not found",
            "main:4:1: expected an address, found `x2`: names are not looked up",
        ]
    );
}

#[test]
fn a_circle_is_an_error_that_names_it() {
    let errors = read(&[
        ("conf/main", "@a"),
        ("conf/a", "10.0.0.1\n@b/../b"),
        ("conf/b/../b", "@./a"),
    ])
    .unwrap_err();
    assert_eq!(
        errors,
        ["conf/b/../b:1:2: files name each other in a circle: \
          conf/a -> conf/b/../b -> conf/b/../a"]
    );
    let errors = read(&[("main", "@main")]).unwrap_err();
    assert_eq!(
        errors,
        ["main:1:2: files name each other in a circle: main -> main"]
    );
}

#[test]
fn a_circle_through_symbolic_links_ends() {
    let source = Source::file(Path::new("main"), "@x/a");
    let errors = AddressList::parse_with(&source, &mut |_| Ok("@x/a".to_owned())).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].message, "files name each other more than 16 deep");
}

#[test]
fn files_that_name_many_files_end() {
    let mut reads = 0;
    let source = Source::file(Path::new("main"), "@x/a\n@x/a");
    let errors = AddressList::parse_with(&source, &mut |_| {
        reads += 1;
        Ok("@x/a\n@x/a".to_owned())
    });
    assert!(errors.is_err());
    assert_eq!(reads, 1024);
}

#[test]
fn files_come_from_disk_relative_to_the_list() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub/more"), "10.0.0.1").unwrap();
    std::fs::write(directory.path().join("latin1"), b"10.0.0.1\n; caf\xe9\n").unwrap();
    let main = directory.path().join("main");
    let list = AddressList::parse(&Source::file(&main, "@sub/more")).unwrap();
    assert!(list.contains(address("10.0.0.1")));

    let text = "@sub\n@latin1\n@absent";
    let errors = AddressList::parse(&Source::file(&main, text)).unwrap_err();
    assert!(errors[0].message.ends_with("sub: not a regular file"));
    assert!(
        errors[1]
            .message
            .ends_with("latin1: line 2 is not UTF-8 text")
    );
    assert!(errors[2].message.contains("No such file"));
    assert_eq!((errors[2].line, errors[2].column), (3, 2));
}
