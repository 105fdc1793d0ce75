use std::fs;

use super::super::ProducerConfig;
use super::*;

/// A directory with `secrets.properties` (keys `password`, `linger`), `token` and `sub/other`.
fn secrets() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let content = "password = hunter2 \nlinger=7\nreference=${env:PATH}\nkey\\:x=y\n";
    fs::write(dir.path().join("secrets.properties"), content).unwrap();
    fs::write(dir.path().join("token"), "hunter2\r\n").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/other"), "hunter2").unwrap();
    dir
}

fn set(p: &mut Properties, name: &str, value: &str) -> Result<(), Error> {
    p.set(name, value)
}

fn error(p: &mut Properties, name: &str, value: &str) -> String {
    set(p, name, value).expect_err(value).to_string()
}

#[test]
fn values_refer_to_files_directories_and_the_environment() {
    let dir = secrets();
    let path = dir.path().display();
    let mut p = Properties::new();
    for (name, value, expected) in [
        ("sasl.password", format!("${{file:{path}/secrets.properties:password}}"), "hunter2"),
        ("linger.ms", format!("${{file:{path}/secrets.properties:linger}}"), "7"),
        ("queue.buffering.max.ms", format!(" ${{file:{path}/secrets.properties:linger}} "), "7"),
        ("ssl.key.password", format!("${{directory:{path}:token}}"), "hunter2"),
        // Several references, and text around them.
        (
            "client.id",
            format!("a-${{directory:{path}:token}}-${{file:{path}/secrets.properties:linger}}}}"),
            "a-hunter2-7}",
        ),
        // A key may contain a colon, and a result is not resolved again.
        ("client.id", format!("${{file:{path}/secrets.properties:key:x}}"), "y"),
        ("client.id", format!("${{file:{path}/secrets.properties:reference}}"), "${env:PATH}"),
        ("client.id", "${env:CARGO_PKG_NAME}".to_owned(), "ottla"),
        // No reference.
        ("client.id", "$x ${} ${a} {b} ${env:".to_owned(), "$x ${} ${a} {b} ${env:"),
    ] {
        set(&mut p, name, &value).unwrap();
        let name = if name == "queue.buffering.max.ms" { "linger.ms" } else { name };
        assert_eq!(p.get(name), Some(expected), "{value}");
    }
    assert!(p.notices().iter().all(|w| !w.contains("config.providers")), "{:?}", p.notices());
    let jaas = format!(
        "x.PlainLoginModule required username=\"u\" password=\"${{directory:{path}:token}}\";"
    );
    set(&mut p, "sasl.jaas.config", &jaas).unwrap();
    assert!(p.get("sasl.jaas.config").unwrap().ends_with("password=\"hunter2\";"));
}

#[test]
fn providers_are_configured_as_in_java() {
    let dir = secrets();
    let path = dir.path().display();
    let mut p = Properties::new();
    // Within a file the order does not matter.
    let text = format!(
        "bootstrap.servers=h:1\nsasl.password=${{vault:{path}/secrets.properties:password}}\n\
         client.id=${{variables:CARGO_PKG_NAME}}\nconfig.providers=vault, variables\n\
         config.providers.vault.class=org.apache.kafka.common.config.provider.FileConfigProvider\n\
         config.providers.vault.param.allowed.paths=/nowhere,{path}\n\
         config.providers.variables.class=EnvVarConfigProvider\n\
         config.providers.variables.param.allowlist.pattern=HOME|CARGO_.*_NAME\n"
    );
    p.load(&text, "f").unwrap();
    assert_eq!(p.get("sasl.password"), Some("hunter2"));
    assert_eq!(p.get("client.id"), Some("ottla"));
    assert!(p.notices().iter().all(|w| !w.contains("provider")), "{:?}", p.notices());
    // A name that is not listed is text, with a warning.
    set(&mut p, "client.id", "${env:CARGO_PKG_NAME}").unwrap();
    assert_eq!(p.get("client.id"), Some("${env:CARGO_PKG_NAME}"));
    assert!(p.notices()[0].contains("client.id (from the builder) refers to"));
    let e = error(&mut p, "client.id", "${variables:PATH}");
    assert!(e.contains("allowlist.pattern does not allow the variable PATH"), "{e}");
    for path in ["/etc/hosts", &format!("{path}/../x"), "/nowhere/../etc/hosts", "token"] {
        let e = error(&mut p, "client.id", &format!("${{vault:{path}:k}}"));
        assert!(e.contains("outside of config.providers.vault.param.allowed.paths"), "{e}");
    }
    for (name, value, expected) in [
        ("config.providers.vault.class", "com.example.VaultConfigProvider", "Java classes"),
        ("config.providers.vault.param.region", "x", "is not supported"),
        ("config.providers.vault.param.allowed.paths", "etc", "not an absolute path"),
        ("config.providers.variables.param.allowlist.pattern", "A[BC]+", "is not supported"),
    ] {
        let e = error(&mut p, name, value);
        assert!(e.contains(name) && e.contains(expected), "{e}");
    }
    let mut p = Properties::new();
    set(&mut p, "config.providers", "vault").unwrap();
    let e = error(&mut p, "client.id", "${vault:/x:k}");
    assert!(e.contains("config.providers.vault.class is missing"), "{e}");
}

#[test]
fn variable_without_a_provider_is_noticed_and_its_text_not_shown() {
    for (value, has_notice) in [
        ("${KAFKA_PASSWORD}", true),
        ("a-${kafka.password}-b", true),
        ("$ConnectionString", false),
        ("${}", false),
        ("p${w!d}", false),
    ] {
        let mut p = Properties::new();
        set(&mut p, "sasl.password", value).unwrap();
        let notices = p.notices();
        let is_noticed = notices.iter().any(|n| n.contains("write ${env:NAME}"));
        assert_eq!(is_noticed, has_notice, "{value}: {notices:?}");
        assert!(notices.iter().all(|n| !n.contains("PASSWORD") && !n.contains("kafka.password")));
    }
}

#[test]
fn errors_name_file_and_key_and_never_the_value() {
    let dir = secrets();
    let path = dir.path().display().to_string();
    fs::write(dir.path().join("broken"), "a=1\npassword=hunter2\\u12\n").unwrap();
    fs::write(dir.path().join("latin1"), b"hunter2\xfc").unwrap();
    let mut p = Properties::new();
    for (value, expected) in [
        ("${file:/no/such/file:key}".to_owned(), "cannot read /no/such/file: No such file"),
        (format!("${{file:{path}/secrets.properties:user}}"), "secrets.properties has no key user"),
        (format!("${{file:{path}/broken:password}}"), "broken: line 2: malformed escape"),
        (format!("${{file:{path}:key}}"), "cannot read"),
        ("${file:password}".to_owned(), "write ${file:PATH:KEY}"),
        (format!("${{directory:{path}:user}}"), "/user: No such file"),
        (format!("${{directory:{path}:sub/other}}"), "sub/other is not the name of a file"),
        (format!("${{directory:{path}/sub:../token}}"), "../token is not the name of a file"),
        (format!("${{directory:{path}:latin1}}"), "latin1 is not UTF-8"),
        ("${env:OTTLA_NO_SUCH_VARIABLE}".to_owned(), "OTTLA_NO_SUCH_VARIABLE is not set"),
        ("${env:a:b}".to_owned(), "write ${env:NAME}"),
    ] {
        let e = error(&mut p, "sasl.password", &value);
        assert!(e.starts_with("sasl.password (from the builder): ${"), "{e}");
        assert!(e.contains(expected) && !e.contains("hunter2"), "{value}: {e}");
    }
    // The value itself is wrong: at once, or together with other settings.
    let secret = format!("${{directory:{path}:token}}");
    for name in ["linger.ms", "acks", "queue.buffering.max.kbytes", "compression.codec"] {
        let e = error(&mut p, name, &secret);
        assert!(e.contains(&secret) && !e.contains("hunter2"), "{e}");
    }
    set(&mut p, "bootstrap.servers", &secret).unwrap();
    let e = ProducerConfig::new(&p).unwrap_err().to_string();
    assert!(e.contains("bootstrap.servers") && !e.contains("hunter2"), "{e}");
    assert!(!format!("{p:?}").contains("hunter2"));
}

#[test]
fn paths_of_windows_are_split_after_the_drive() {
    assert_eq!(split_path("C:/a/b.properties:key"), Some(("C:/a/b.properties", "key")));
    assert_eq!(split_path("C:\\a:k:l"), Some(("C:\\a", "k:l")));
    assert_eq!(split_path("/a:b:c"), Some(("/a", "b:c")));
    assert_eq!(split_path(":b"), None);
    assert_eq!(split_path("b"), None);
}
