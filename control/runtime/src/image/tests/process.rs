//! The process to run for an image.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    ContainerSpec, RuntimeError,
    image::{ImageSettings, process_of},
};

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

fn settings() -> ImageSettings {
    ImageSettings {
        entrypoint: words(&["/entry"]),
        cmd: words(&["one", "two"]),
        env: words(&["PATH=/opt/bin", "A=1", "B=2", "no-assignment"]),
        working_dir: Some("/srv".to_owned()),
        ..ImageSettings::default()
    }
}

fn spec() -> ContainerSpec {
    ContainerSpec { name: "app".to_owned(), image: "local/x@sha256:0".to_owned(), command: None, workdir: None, env: Vec::new() }
}

#[test]
fn the_manifest_overrides_the_image() {
    let own = process_of(&settings(), &spec()).unwrap();
    assert_eq!((own.args, own.cwd.as_str()), (words(&["/entry", "one", "two"]).unwrap(), "/srv"));
    assert_eq!(own.env, ["PATH=/opt/bin", "A=1", "B=2"]);

    let env = [("B", "3"), ("C", "x=y"), ("C", "z"), ("discovery.type", "single-node")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let asked = ContainerSpec { command: words(&["mine"]), workdir: Some("/".to_owned()), env: env.into(), ..spec() };
    let asked = process_of(&settings(), &asked).unwrap();
    assert_eq!((asked.args, asked.cwd.as_str()), (words(&["/entry", "mine"]).unwrap(), "/"), "the entrypoint stays");
    assert_eq!(asked.env, ["PATH=/opt/bin", "A=1", "B=3", "C=z", "discovery.type=single-node"]);
    assert!(!format!("{:?}", process_of(&settings(), &spec()).unwrap()).contains("B=2"), "variables may be private");
}

#[test]
fn commands_are_put_together_as_docker_does() {
    let read = |text: &str| serde_json::from_str::<ImageSettings>(text).unwrap();
    let table = [
        (r#"{"Entrypoint":["/e"],"Cmd":["c"]}"#, None, Some(&["/e", "c"][..])),
        (r#"{"Entrypoint":["/e"],"Cmd":["c"]}"#, Some(&["m"][..]), Some(&["/e", "m"])),
        (r#"{"Entrypoint":"/e","Cmd":"c"}"#, None, Some(&["/e", "c"])),
        (r#"{"Entrypoint":[""],"Cmd":["c"]}"#, None, Some(&["c"])),
        (r#"{"Entrypoint":"","Cmd":["c"]}"#, Some(&["m"]), Some(&["m"])),
        (r#"{"Entrypoint":null,"Cmd":["c"]}"#, None, Some(&["c"])),
        (r#"{"Entrypoint":[],"Cmd":[]}"#, Some(&["m"]), Some(&["m"])),
        (r#"{"Cmd":["","c"]}"#, None, None),
        (r#"{"Entrypoint":[""]}"#, None, None),
        (r#"{"Cmd":["a\u0000b"]}"#, None, None),
        ("{}", None, None),
    ];
    for (config, command, expected) in table {
        let asked = ContainerSpec { command: command.and_then(words), ..spec() };
        let found = process_of(&read(config), &asked);
        assert!(expected.is_some() || matches!(found, Err(RuntimeError::ImageRefused { .. })), "{config}: {found:?}");
        assert_eq!(found.ok().map(|process| process.args), expected.and_then(words), "{config} {command:?}");
    }
}

#[test]
fn what_an_image_says_is_cleaned_or_refused() {
    for (said, cwd) in [
        (None, Some("/")),
        (Some(""), Some("/")),
        (Some("/a/../b/./c//d"), Some("/b/c/d")),
        (Some("/../.."), Some("/")),
        (Some("srv"), None),
        (Some("/a\0"), None),
    ] {
        let settings = ImageSettings { working_dir: said.map(str::to_owned), ..settings() };
        assert_eq!(process_of(&settings, &spec()).ok().map(|process| process.cwd), cwd.map(str::to_owned), "{said:?}");
    }
    for (env, refused) in [("=x", true), ("A=\0", true), ("A\0=", true), ("A", false), ("A.b-c=", false), ("A==", false)] {
        let settings = ImageSettings { env: words(&[env]), ..settings() };
        assert_eq!(process_of(&settings, &spec()).is_err(), refused, "{env:?}");
    }
    let volumes = |paths: &[&str]| {
        let volumes: BTreeMap<_, _> = paths.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
        process_of(&ImageSettings { volumes: Some(volumes), ..settings() }, &spec()).map(|process| process.volumes)
    };
    assert_eq!(volumes(&["/data", "rel", "x/../../y", ""]).unwrap(), ["/", "/data", "/rel", "/y"]);
    let many: Vec<String> = (0..300).map(|number| format!("/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(volumes(&many).is_err(), "each is a directory of the pod's disk");
}
