//! Every bad configuration of `tests/data/bad` earns just the errors written at its end; the demo earns none.
//! `PORTREEVE_BLESS=1` writes what is said now into the files, to be read before it is committed.

use std::path::Path;

use super::load;

const EXPECT: &str = "-- expect --\n";

#[test]
fn every_bad_configuration_earns_its_messages() {
    let folder = Path::new("tests/data/bad");
    let bless = std::env::var_os("PORTREEVE_BLESS").is_some();
    let mut cases = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (files, expected) = text.split_once(EXPECT).unwrap();
        let home = tempfile::tempdir().unwrap();
        unpack(files, home.path());
        let said = match load(&home.path().join("portreeve.ron")) {
            Ok(_) => String::new(),
            Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
        };
        let said = said.replace(&format!("{}/", home.path().display()), "");
        if bless {
            std::fs::write(&path, format!("{files}{EXPECT}{said}")).unwrap();
        } else {
            assert!(!expected.is_empty(), "{} expects nothing", path.display());
            assert_eq!(said, expected, "{}", path.display());
        }
        cases += 1;
    }
    assert!(cases >= 40, "only {cases} cases");
}

#[test]
fn the_demo_is_without_fault() {
    let plan = load(Path::new("conf/portreeve.ron")).unwrap();
    // Git keeps no file that only its owner may read, so the demo comes without accounts.
    let unexpected = |notice: &&String| !notice.contains("no accounts yet");
    let notices: Vec<&String> = plan.notices.iter().filter(unexpected).collect();
    assert_eq!(notices, Vec::<&String>::new());
    for entry in crate::modules::TABLE {
        let used = plan
            .listeners
            .iter()
            .any(|listener| listener.module == entry.name);
        assert!(used, "module {} is not in the demo", entry.name);
    }
}

#[test]
fn few_connections_for_imap_earn_a_warning() {
    let listener = |module: &str| {
        let text = format!(
            "Tcp(module: {module}, limit_per_address: 5, limit_non_clients: 4, sockets: [])"
        );
        let plan = super::load_texts("()", &text).unwrap();
        let few = plan.notices.iter().filter(|it| it.contains("at least 5"));
        few.count()
    };
    assert_eq!((listener("Imap"), listener("Pop")), (1, 0));
}

#[test]
fn every_key_stands_on_the_page_and_every_key_of_the_page_exists() {
    let page = std::fs::read_to_string("docs/configuration.md").unwrap();
    let raw = [include_str!("raw.rs"), include_str!("../accounts/file.rs")];
    let mut keys: Vec<&str> = raw
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.trim().strip_prefix("pub(super) "))
        .filter_map(|line| Some(line.split_once(": Field")?.0.trim_start_matches("r#")))
        .chain(
            crate::modules::TABLE
                .iter()
                .flat_map(|entry| entry.keys.iter().copied()),
        )
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let told: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    for key in &keys {
        assert!(
            told.contains(key),
            "docs/configuration.md says nothing of {key}"
        );
    }
    for key in &told {
        let module = crate::modules::TABLE.iter().any(|entry| entry.name == *key);
        assert!(
            module || keys.contains(key),
            "docs/configuration.md invents {key}"
        );
    }
    for entry in crate::modules::TABLE {
        assert!(
            told.contains(&entry.name),
            "docs/configuration.md says nothing of {}",
            entry.name
        );
    }
}

fn unpack(text: &str, home: &Path) {
    let mut file = None;
    for line in text.split_inclusive('\n') {
        let name = line
            .strip_prefix("-- ")
            .and_then(|line| line.strip_suffix(" --\n"));
        if let Some(name) = name {
            let path = home.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            file = Some(path);
        } else if let Some(path) = &file {
            let before = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, before + line).unwrap();
        }
    }
}

/// A directory with two listeners, `b` with these sockets.
fn two_listeners(network: &str, b: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("listeners")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
    write("portreeve.ron", &format!("(network: ({network}))"));
    write("listeners/a.ron", "Tcp(module: Echo, sockets: [])");
    write(
        "listeners/b.ron",
        &format!("Tcp(module: Echo, sockets: [{b}])"),
    );
    home
}

#[test]
fn a_conflict_is_the_fault_of_the_file_that_is_edited() {
    let home = two_listeners("", "(port: 7999)");
    let server = home.path().join("portreeve.ron");
    let edited = home.path().join("listeners/a.ron");
    let text = "Tcp(module: Echo, sockets: [(port: 7999)])";
    let link = crate::control::Link::default();
    let errors = super::load_edited(&server, &link, Some((&edited, text))).unwrap_err();
    let files: Vec<&Path> = errors.iter().map(|error| &*error.file).collect();
    assert_eq!(files, [edited], "{errors:?}");
}

#[test]
fn a_long_list_in_a_file_is_walked_through_once() {
    let line = |number: u32| format!("{} ; x\n", std::net::Ipv4Addr::from(number << 1));
    let list: String = (0..200_000).map(line).collect();
    let home = two_listeners(&format!("denied: \"\n{list}\""), "");
    let begun = std::time::Instant::now();
    load(&home.path().join("portreeve.ron")).unwrap();
    // With a walk for each entry it took minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(30));
}
