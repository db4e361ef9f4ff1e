#!/usr/bin/env bash
# Repeats the examples of the XLink upgrade page against a running server, field by field, and stops at the first mismatch.
#
#   SLUICEGATE_URL=http://127.0.0.1:8080 SLUICEGATE_ADMIN_TOKEN=… tests/seed-000.sh
#
# Needs bash and curl, nothing else. It makes a product with a name of its own, and deletes its task at the end.
set -euo pipefail

url=${SLUICEGATE_URL:-http://127.0.0.1:8080}
admin=${SLUICEGATE_ADMIN_TOKEN:?must hold the token of the administrator}
# 32 hexadecimal digits, another product at each run.
product=$(printf '%016x%08x%08x' "$(date +%s)" "$$" "$RANDOM")
device=$((RANDOM * 32768 + RANDOM + 1))
checked=0

fail() {
    printf 'MISMATCH %s\n' "$*" >&2
    exit 1
}

# call METHOD PATH TOKEN [BODY]: sets $status and $body.
call() {
    local answer
    local arguments=(--silent --show-error --max-time 60 --request "$1" --header "Access-Token:$3" --write-out $'\n%{http_code}')
    if (($# > 3)); then
        arguments+=(--header 'Content-Type: application/json' --data-binary "$4")
    fi
    answer=$(curl "${arguments[@]}" "$url$2") || fail "$1 $2: no answer"
    status=${answer##*$'\n'}
    body=${answer%$'\n'*}
}

expect_status() {
    [[ $status == "$1" ]] || fail "$2: status $1 expected, got $status: $body"
    checked=$((checked + 1))
}

# expect_field NAME VALUE WHERE: the value as it stands in the JSON, with its quotes if it is a text.
expect_field() {
    [[ $body == *"\"$1\":$2"[,}]* ]] || fail "$3: \"$1\":$2 expected in $body"
    checked=$((checked + 1))
}

expect_no_field() {
    [[ $body != *"\"$1\":"* ]] || fail "$2: no \"$1\" expected in $body"
    checked=$((checked + 1))
}

expect_body() {
    [[ $body == "$1" ]] || fail "$2: the body $1 expected, got $body"
    checked=$((checked + 1))
}

# The text that a field holds.
text_of() {
    [[ $body =~ \"$1\":\"([^\"]*)\" ]] || fail "no text $1 in $body"
    printf '%s' "${BASH_REMATCH[1]}"
}

# issue ROLE MORE: prints a token.
issue() {
    local answer
    answer=$(curl --silent --show-error --max-time 60 --header "Authorization: Bearer $admin" --header 'Content-Type: application/json' \
        --data-binary "{\"role\":\"$1\"$2}" "$url/api/v1/tokens") || fail "no token: $answer"
    [[ $answer =~ \"token\":\"([^\"]*)\" ]] || fail "no token in $answer"
    printf '%s' "${BASH_REMATCH[1]}"
}

# Every field of a task, as the tables of the page give them. STATUS COUNT WHERE
expect_task() {
    expect_field id "\"$task\"" "$3"
    expect_field product_id "\"$product\"" "$3"
    expect_field name '"升级任务名称"' "$3"
    expect_field description '"描述"' "$3"
    expect_field from_version 1 "$3"
    expect_field from_version_url '"http://files.example/firmware/1.bin"' "$3"
    expect_field from_version_md5 '"c4ca4238a0b923820dcc509a6f75849b"' "$3"
    expect_field from_version_size 1024 "$3"
    expect_field target_version 2 "$3"
    expect_field target_version_url '"http://files.example/firmware/2.bin"' "$3"
    expect_field target_version_md5 '"c81e728d9d4c2f636f067f89cc14862c"' "$3"
    expect_field target_version_size 2048 "$3"
    expect_field upgrade_count "$2" "$3"
    expect_field status "$1" "$3"
    expect_field type 1 "$3"
    expect_field identify 0 "$3"
    expect_field task_type 0 "$3"
}

operator=$(issue operator '')
device_token=$(issue device ",\"product_id\":\"$product\",\"device_id\":\"$device\"")

create="{
    \"product_id\":\"$product\",
    \"name\":\"升级任务名称\",
    \"description\":\"描述\",
    \"from_version\":\"1\",
    \"from_version_url\":\"http://files.example/firmware/1.bin\",
    \"from_version_md5\":\"c4ca4238a0b923820dcc509a6f75849b\",
    \"from_version_size\":\"1024\",
    \"target_version\":\"2\",
    \"target_version_url\":\"http://files.example/firmware/2.bin\",
    \"target_version_md5\":\"c81e728d9d4c2f636f067f89cc14862c\",
    \"target_version_size\":\"2048\",
    \"type\" : \"1\",
    \"identify\":\"0\",
    \"task_type\":\"0\"
}"
# The body of a check from VERSION.
check_from() {
    printf '{
    "product_id":"%s",
    "device_id":"%s",
    "type":"1",
    "current_version":"%s",
    "identify":"0"
}' "$product" "$device" "$1"
}

echo '1. create'
call POST /v2/upgrade/firmware/task "$operator" "$create"
expect_status 200 create
task=$(text_of id)
expect_task 0 0 create
call POST /v2/upgrade/firmware/task "$operator" "$create"
expect_status 400 'create the same again'
expect_field code 4001035 'create the same again'
call POST /v2/upgrade/firmware/task "$operator" "${create/升级任务名称/another name}"
expect_status 400 'create with the same start'
expect_field code 4001037 'create with the same start'
call POST /v2/upgrade/firmware/task '' "$create"
expect_status 403 'create without a token'
expect_field code 4031002 'create without a token'

echo '2. list by GET'
call GET "/v2/upgrade/firmware/tasks?product_id=$product&offset=0&limit=10" "$operator"
expect_status 200 'list by GET'
[[ $body == '[{'*'}]' ]] || fail "list by GET: an array of one task expected, got $body"
expect_task 0 0 'list by GET'
expect_field surplus_count 0 'list by GET'

echo '3. start'
call POST "/v2/upgrade/firmware/check/$device" "$device_token" "$(check_from 1)"
expect_status 404 'check before the start'
expect_field code 4041013 'check before the start'
for state in 1 0 1; do
    call POST /v2/upgrade/firmware/task/status "$operator" \
        "{\"product_id\":\"$product\",\"upgrade_task_id\":\"$task\",\"status\":\"$state\"}"
    expect_status 200 "status $state"
    expect_body '' "status $state"
done

echo '5. check'
call POST "/v2/upgrade/firmware/check/$device" "$device_token" "$(check_from 1)"
expect_status 200 check
expect_task 1 0 check
expect_no_field surplus_count check
call GET "/v2/upgrade/firmware/tasks?product_id=$product" "$operator"
expect_field surplus_count 1 'list after the check'

echo '6. report'
report="{
    \"type\":\"1\",
    \"mod\":\"固件型号\",
    \"identify\":\"0\",
    \"last_version\":\"1\",
    \"current_version\":\"2\",
    \"result\":\"RESULT\",
    \"desc\":\"升级状况描述\",
    \"start_date\":\"2015-10-09T08:15:40.843Z\",
    \"end_date\":\"2015-10-09T08:15:40.843Z\"
}"
for result in 1 0 0; do
    call POST "/v2/upgrade/firmware/report/$device" "$device_token" "${report/RESULT/$result}"
    expect_status 200 "report $result"
    expect_body '' "report $result"
done

echo '7. list by POST'
call POST /v2/upgrade/firmware/tasks "$operator" "{\"product_id\":\"$product\",\"offset\":\"0\",\"limit\":\"10\",\"type\":\"1\"}"
expect_status 200 'list by POST'
[[ $body == '{"count":1,"list":[{'*'}]}' ]] || fail "list by POST: a count and a list of one task expected, got $body"
expect_task 1 1 'list by POST'
expect_field surplus_count 0 'list by POST'
call POST /v2/upgrade/firmware/tasks "$operator" "{\"product_id\":\"$product\",\"type\":\"2\"}"
expect_body '{"count":0,"list":[]}' 'list by POST of another type'
call POST "/v2/upgrade/firmware/check/$device" "$device_token" "$(check_from 2)"
expect_status 404 'check at the target'
expect_field code 4041013 'check at the target'

echo '4. delete'
call POST /v2/upgrade/firmware/task/delete "$operator" "{\"id\": \"$task\", \"product_id\": \"$product\"}"
expect_status 200 delete
expect_body '' delete
call POST /v2/upgrade/firmware/task/delete "$operator" "{\"id\": \"$task\", \"product_id\": \"$product\"}"
expect_status 404 'delete again'
expect_field code 4041013 'delete again'
call GET "/v2/upgrade/firmware/tasks?product_id=$product" "$operator"
expect_body '[]' 'list after the delete'

echo "all $checked comparisons agree"
