use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use super::*;
use crate::runtime;

/// An S3 server that answers each request line as it is told, and what it was asked.
struct Server {
    objects: Objects,
    asked: Arc<Mutex<Vec<String>>>,
}

fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let head: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let Some(request) = head.first() else { continue };
            log.lock().push(request.clone());
            // A client that has gone does not matter.
            let _ = connection.write_all(answer(request).as_bytes());
        }
    });
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        .with_retry(retry)
        .build()
        .unwrap();
    Server { objects: Objects::new(Arc::new(store), ""), asked }
}

impl Server {
    /// The methods of what it was asked since the last time.
    fn methods(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock());
        asked.iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

const META: &str = "Last-Modified: Tue, 01 Jan 2030 00:00:00 GMT\r\nETag: \"e\"\r\n";
const EMPTY_LISTING: &str = "<ListBucketResult></ListBucketResult>";

#[test]
fn a_missing_bucket_is_named_where_an_object_is_looked_for() {
    let server = serve(|request| match request {
        _ if request.starts_with("HEAD") => answer("404 Not Found", "", ""),
        _ => answer("404 Not Found", "", "<Error><Code>NoSuchBucket</Code></Error>"),
    });
    for _ in 0..2 {
        let error = runtime().block_on(server.objects.head("x/y")).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::NotFound, "no such bucket"));
        assert!(error.hint().is_some());
    }
}

#[test]
fn whether_there_is_a_bucket_is_asked_once_and_not_after_any_answer() {
    for listing in [answer("200 OK", "", EMPTY_LISTING), answer("403 Forbidden", "", "AccessDenied")] {
        let server = serve(move |request| match request {
            _ if request.starts_with("HEAD") => answer("404 Not Found", "", ""),
            _ if request.starts_with("PUT") => answer("200 OK", META, ""),
            _ => listing.clone(),
        });
        let child = server.objects.child("deep");
        for objects in [&server.objects, &child, &server.objects] {
            assert_eq!(runtime().block_on(objects.head("x")).unwrap(), None);
        }
        assert_eq!(server.methods(), ["HEAD", "GET", "HEAD", "HEAD"]);
        let fresh = Objects::new(Arc::clone(&server.objects.store), "");
        runtime().block_on(fresh.put("x", Bytes::new())).unwrap();
        assert_eq!(runtime().block_on(fresh.head("y")).unwrap(), None);
        assert_eq!(server.methods(), ["PUT", "HEAD"]);
    }
}

#[test]
fn a_failed_read_asks_for_the_size_only_where_the_range_was_refused() {
    let server = serve(|request| match request {
        _ if request.starts_with("HEAD") => {
            answer("200 OK", META, "").replace("Content-Length: 0", "Content-Length: 10")
        }
        _ if request.contains("short") => answer("416 Range Not Satisfiable", "", "InvalidRange"),
        _ => answer("503 Service Unavailable", "", ""),
    });
    assert_eq!(runtime().block_on(server.objects.get_range("short", 10, 5)).unwrap(), Bytes::new());
    assert_eq!(server.methods(), ["GET", "HEAD"]);
    let error = runtime().block_on(server.objects.get_range("broken", 10, 5)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(server.methods(), ["GET"]);
}

#[test]
fn a_bucket_in_another_region_is_the_users_to_mend() {
    let server = serve(|_| answer("301 Moved Permanently", "x-amz-bucket-region: eu-west-1\r\n", ""));
    let errors = [
        runtime().block_on(server.objects.head("x")).unwrap_err(),
        runtime().block_on(server.objects.get_range("x", 0, 1)).unwrap_err(),
        runtime().block_on(server.objects.put("x", Bytes::new())).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Invalid, "{}", error.render());
        assert!(error.hint().is_some_and(|hint| hint.contains("AWS_REGION")));
    }
}

#[test]
fn a_head_that_is_refused_without_a_word_is_explained_by_a_listing() {
    let causes = [
        ("AuthorizationHeaderMalformed: the region 'us-east-1' is wrong", "another region"),
        ("ExpiredToken", "credentials have expired"),
    ];
    for (cause, message) in causes {
        let server = serve(move |request| match request {
            _ if request.starts_with("HEAD") => answer("400 Bad Request", "", ""),
            _ => answer("400 Bad Request", "", cause),
        });
        let error = runtime().block_on(server.objects.head("x")).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().contains(message), "{}", error.render());
        assert_eq!(server.methods(), ["HEAD", "GET"]);
    }
}

#[test]
fn a_pattern_asks_s3_for_no_folder_in_which_nothing_can_match() {
    let server = serve(|request| {
        let folder = |name: &str| format!("<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>");
        let object = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2030-01-01T00:00:00.000Z</LastModified>\
                 <ETag>\"e\"</ETag><Size>1</Size></Contents>"
            )
        };
        let inner = match request {
            _ if request.contains("prefix=raw-1") => object("raw-1/") + &object("raw-1/1.txt"),
            _ if request.contains("prefix=") => object("never/asked.txt"),
            _ => folder("raw-1") + &folder("other") + &object("raw-2"),
        };
        answer("200 OK", "", &format!("<ListBucketResult>{inner}</ListBucketResult>"))
    });
    let listed = runtime().block_on(server.objects.list_matching(&Pattern::new("raw-?/*"))).unwrap();
    assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["raw-1/1.txt"]);
    assert_eq!(server.methods(), ["GET", "GET"]);
}

#[test]
fn how_long_a_store_may_take_is_read_from_the_environment_or_refused() {
    assert_eq!(patience(None).unwrap(), RETRY_TIMEOUT);
    assert_eq!(patience(Some("")).unwrap(), RETRY_TIMEOUT);
    assert_eq!(patience(Some("90s")).unwrap(), Duration::from_secs(90));
    for wrong in ["90", "soon", "0s", "-1s"] {
        let error = patience(Some(wrong)).unwrap_err();
        assert!(error.message().contains(TIMEOUT_VARIABLE) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_store_that_refuses_is_given_some_ten_seconds() {
    let RetryConfig { backoff, max_retries, .. } = retries(RETRY_TIMEOUT);
    let first = backoff.init_backoff.as_secs_f64();
    let pauses = std::iter::successors(Some(first), |pause| {
        Some(f64::midpoint(first, backoff.base * pause).min(backoff.max_backoff.as_secs_f64()))
    });
    let total: f64 = pauses.take(max_retries).sum();
    assert!((8.0..=12.0).contains(&total), "{total}");
}
