use proptest::prelude::*;

use super::*;

#[test]
fn quotes_escapes_and_option_names_are_parsed_as_in_java() {
    let login = parse(
        "org.apache.kafka.common.security.scram.ScramLoginModule required\n  \
         username=\"al=ice;\" password='se \\'cret\\\\' tokenauth=true;",
    )
    .unwrap();
    assert_eq!(login.option("username"), Some("al=ice;"));
    assert_eq!(login.option("password"), Some("se 'cret\\"));
    assert_eq!(login.option("tokenauth"), Some("true"));
    assert!(login.check_mechanism("SCRAM-SHA-512").is_ok());
    assert!(login.check_mechanism("PLAIN").is_err());
    let login = parse("x.PlainLoginModule  REQUIRED username = bob password=\"\" ;").unwrap();
    assert_eq!(login.option("username"), Some("bob"));
    assert_eq!(login.option("password"), None, "an empty value counts as not set");
}

#[test]
fn octal_escapes_comments_and_repeated_options_are_parsed_as_in_java() {
    let login = parse(
        "x.PlainLoginModule required // the user\n username=\"a\\101\\0 \\477\\7\" /* and\n the \
         password */ password='//\\v\\x' password=\"last\";;",
    )
    .unwrap();
    assert_eq!(login.option("username"), Some("aA\0 '7\u{7}"));
    assert_eq!(login.option("password"), Some("last"));
}

/// What people write in `sasl.jaas.config`, and what is wrong with it. No message has a part of the
/// text that may be a secret: all secrets here contain `hunter2`.
#[test]
fn error_names_the_fault_and_never_the_secret() {
    const MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let connection = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;\
                      SharedAccessKey=hunter2=";
    for (options, fault) in [
        // Quotation marks are missing.
        ("username=u password=hunter2;x;".to_owned(), "password that contains a semicolon and is"),
        ("username=u password=hunter2==;".to_owned(), "password that contains = and is not in"),
        ("username=u password=a hunter2;".to_owned(), "password that contains a blank and is not"),
        ("username=u password=hunt\"er2\";".to_owned(), "password that contains a quotation mark"),
        ("username=u,password=hunter2;".to_owned(), "username that contains a comma and is not"),
        (
            format!("username=\"$ConnectionString\" password={connection};"),
            "password that contains =",
        ),
        (format!("username=$ConnectionString password={connection}"), "password that contains ="),
        // They do not pair up, or are of the wrong kind.
        (
            "username=\"u\" password=\"hunter2;".to_owned(),
            "no closing quotation mark for the value of password",
        ),
        (
            "username=\"u\" password='hunter2\";".to_owned(),
            "no closing quotation mark for the value of password",
        ),
        ("username=\"u\" password=\"hunter2\n;\";".to_owned(), "no closing quotation mark"),
        ("username=\"u\" password=\"hunter2\\".to_owned(), "no closing quotation mark"),
        ("username=\"u password=\"hunter2\";".to_owned(), "directly behind the value of username"),
        (
            "username=\"u\" password=\"hun\"ter2\";".to_owned(),
            "directly behind the value of password",
        ),
        ("username=\"u\" password=\"a\" hunter2\";".to_owned(), "behind the value of password"),
        (
            "username=“u” password=“hunter2”;".to_owned(),
            "typographic quotation mark at the value of username",
        ),
        (
            "username=\\\"u\\\" password=\\\"hunter2\\\";".to_owned(),
            "backslash before the quotation mark of username",
        ),
        // Other characters are missing, or too many.
        ("username=\"u\" password=\"hunter2\"".to_owned(), "does not end with a semicolon"),
        ("username=u password=hunter2".to_owned(), "does not end with a semicolon"),
        ("username=\"u\", password=\"hunter2\";".to_owned(), "comma between options"),
        ("username=\"u\" password=;".to_owned(), "no value for password"),
        ("username=\"u\" password=".to_owned(), "no value for password"),
        ("username \"u\" password \"hunter2\";".to_owned(), "an option without a value"),
        ("hunter2;".to_owned(), "an option without a value"),
        ("username=\"u\" hunter2;".to_owned(), "without a value behind the value of username"),
        ("username=\"u\"; password=\"hunter2\";".to_owned(), "text behind the semicolon"),
        ("password=\"hunter2\"; y.PlainLoginModule required;".to_owned(), "only one login module"),
        ("hunter2=\"hunter2;".to_owned(), "the value of an option"),
    ] {
        let Err(e) = parse(&format!("{MODULE} {options}")) else { panic!("{options}") };
        let e = e.to_string();
        assert!(e.contains(fault), "{options}: {e}");
        assert!(!e.contains("hunter2") && !e.contains("SharedAccess"), "{e}");
    }
    for (text, fault) in [
        ("", "is empty"),
        ("\"x.PlainLoginModule required username=u;\"", "marks around the whole text"),
        ("'x.PlainLoginModule required password=hunter2;'", "marks around the whole text"),
        ("username=\"u\" password=\"hunter2\";", "the login module is missing"),
        ("x.PlainLoginModule username=\"u\" password=\"hunter2\";", "no \"required\""),
        ("hunter2", "no \"required\""),
        ("KafkaClient {\n x.PlainLoginModule required username=u;\n};", "content of a JAAS file"),
        ("{ x.PlainLoginModule required; }", "does not begin with a login module"),
    ] {
        let Err(e) = parse(text) else { panic!("{text}") };
        assert!(e.to_string().contains(fault), "{text}: {e}");
        assert!(!e.to_string().contains("hunter2"), "{e}");
    }
    let login = parse("hunter2 required;").unwrap();
    let e = login.check_mechanism("PLAIN").unwrap_err().to_string();
    assert!(e.contains("PlainLoginModule") && !e.contains("hunter2"), "{e}");
}

#[test]
fn values_that_java_accepts_are_accepted() {
    for (value, expected) in [
        ("hunter2", "hunter2"),
        ("$ConnectionString", "$ConnectionString"),
        ("60", "60"),
        ("p@ss/w0rd+", "p@ss/w0rd+"),
        ("\"Endpoint=sb://x/;Key=a=\"", "Endpoint=sb://x/;Key=a="),
        ("'it\"s'", "it\"s"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"ü“”\"", "ü“”"),
    ] {
        let login = parse(&format!("x.PlainLoginModule required password={value};")).unwrap();
        assert_eq!(login.option("password"), Some(expected), "{value}");
    }
}

#[test]
fn unsupported_login_modules_and_handlers_are_named() {
    for (text, expected) in [
        ("software.amazon.msk.auth.iam.IAMLoginModule required;", "SCRAM-SHA-512 (port 9096)"),
        ("com.example.OtherLoginModule required;", "names com.example.OtherLoginModule"),
        ("a.OAuthBearerLoginModule required oauth.client.id=x;", "Strimzi"),
    ] {
        let e = parse(text).unwrap().check_mechanism("OAUTHBEARER").unwrap_err().to_string();
        assert!(e.contains(expected), "{text}: {e}");
    }
}

#[test]
fn unsecured_token_and_extensions_are_parsed() {
    let login = parse(
        "a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"alice\" \
         unsecuredLoginListClaim_scope=\",a,b\" unsecuredLoginNumberClaim_n=\"1.5\" \
         unsecuredLoginLifetimeSeconds=60 extension_logicalCluster=\"lkc-1\";",
    )
    .unwrap();
    let UnsecuredToken { claims, lifetime } = login.unsecured_token().unwrap();
    assert_eq!(claims[0], ("sub".to_owned(), TokenClaim::Text("alice".to_owned())));
    assert_eq!(claims[1].1, TokenClaim::List(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(claims[2].1, TokenClaim::Number(1.5));
    assert_eq!(lifetime, Duration::from_secs(60));
    let extension = ("logicalCluster".to_owned(), "lkc-1".to_owned());
    assert_eq!(login.extensions().unwrap(), [extension]);
    let login = parse("a.OAuthBearerLoginModule required extension_auth=\"x\";").unwrap();
    assert!(login.extensions().is_err());
}

proptest! {
    /// A value in quotation marks is read back with any content.
    #[test]
    fn quoted_value_is_read_back(
        value in "[a-z0-9\"'\\\\;=, /\n\r\t\u{7}ü]{1,20}",
        double in any::<bool>(),
    ) {
        let quote = if double { '"' } else { '\'' };
        let mut written = String::from(quote);
        for c in value.chars() {
            match c {
                '\n' => written += "\\n",
                '\r' => written += "\\r",
                '\u{7}' => written += "\\a",
                c if c == quote || c == '\\' => written.extend(['\\', c]),
                c => written.push(c),
            }
        }
        written.push(quote);
        let login = parse(&format!("x.M required password={written};")).unwrap();
        prop_assert_eq!(login.option("password"), Some(value.as_str()));
    }

    #[test]
    fn no_text_panics(text in "[a-z\"'\\\\;=,{}/* \n07ü]{0,40}") {
        let _ = parse(&text);
        let _ = parse(&format!("x.M required {text}"));
    }
}
