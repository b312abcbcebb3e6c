// A server that speaks as much S3 as the raced clients need, keeps every object in memory, and does as little as it can
// with each byte, so that what a race measures is the client.
//
//   sink PORT        listens on 127.0.0.1 (0: a free port) and prints "listening on PORT"
//        --first-byte-ms N         waits so long before each answer and each leave to send a body, and before it accepts
//                                  a connection (twice with TLS)
//        --connection-rate N       moves N bytes a second at most on each connection
//        --total-rate N            moves N bytes a second at most, over all connections together
//        --loss-of-connections P   breaks off P percent of the requests, with their connections
//        --busy P                  answers 503 to P percent of the requests
//        --tls CERTIFICATE KEY     speaks TLS (only where it was compiled with -DTLS, which takes OpenSSL)
//
// Path-style addresses only; every bucket exists; signatures and checksums are not looked at. An ETag is a number and
// ends in "-1", as that of an upload in parts: no client takes it for an MD5, which would cost more than the rest.
//
//   GET /-/stats     counters since the last reset, as JSON; not counted itself
//   POST /-/reset    sets the counters to zero
//   POST /-/network/1  answers as the options say from now on, as it does from its start; /0 as fast as it can
//   POST /-/clear    forgets every object and every unfinished upload, and sets the counters to zero
//   POST /-/limit/N  moves N bytes a second at most, over all connections together; 0 for any number
//
// One thread per connection. One lock guards the index; content is never changed once it is complete, and lives for as
// long as something refers to it. Memory is used again and never given back: after a warm-up nothing has to be zeroed.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

#define BLOCK (1UL << 20)
#define PACED (256UL * 1024)  // bytes that a network of a certain rate takes at a time
#define ARENA (64 * BLOCK)
#define HEAD_MAX (64 * 1024)
#define TARGET_MAX 8192
#define FRAME 256

static void *must(void *memory) {
    if (!memory) {
        fputs("sink: no memory left\n", stderr);
        abort();
    }
    return memory;
}

// --- counters -----------------------------------------------------------------------------------------------------

enum { GET, HEAD, PUT, POST, DELETE, OTHER, METHODS };
static const char *const METHOD_NAMES[METHODS] = {"GET", "HEAD", "PUT", "POST", "DELETE", "OTHER"};

static atomic_ulong bytes_in, bytes_out, requests[METHODS];
static atomic_ulong first_request, last_answer;  // nanoseconds
static struct timespec cpu_at_reset;

static unsigned long now_ns(void);

// Remembers when a request came, or when its answer was done.
static void note_time(bool came) {
    unsigned long nanoseconds = now_ns(), none = 0;
    if (came) atomic_compare_exchange_strong(&first_request, &none, nanoseconds);
    else atomic_store_explicit(&last_answer, nanoseconds, memory_order_relaxed);
}

// --- the network --------------------------------------------------------------------------------------------------

static pthread_mutex_t pace_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long first_byte, connection_rate, total_rate, limit, free_at;  // nanoseconds, bytes a second, nanoseconds
static double loss, busy;  // percent
static atomic_bool has_network = true;
static atomic_ulong drawn, connections, lost, refused, open_requests, most_requests;

static unsigned long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long)now.tv_sec * 1000000000UL + (unsigned long)now.tv_nsec;
}

static void sleep_until(unsigned long moment) {
    struct timespec until = {(time_t)(moment / 1000000000UL), (long)(moment % 1000000000UL)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) continue;
}

static void wait_for_distance(void) {
    if (first_byte && has_network) sleep_until(now_ns() + first_byte);
}

// When as many bytes more have passed at a rate, after those before them.
static unsigned long pass(unsigned long *free_again, unsigned long rate, size_t size, unsigned long now) {
    if (!rate || *free_again < now) *free_again = now;
    if (rate) *free_again += (unsigned long)((double)size * 1e9 / (double)rate);
    return *free_again;
}

static unsigned long rate_of_all(void) {
    return limit ? limit : has_network ? total_rate : 0;
}

static bool is_paced(void) {
    return (connection_rate && has_network) || rate_of_all();
}

// Waits until as many bytes more may have passed: on a connection, and over all of them.
static void pace(unsigned long *connection_free_at, size_t size) {
    if (!is_paced()) return;
    unsigned long now = now_ns(), until = pass(connection_free_at, has_network ? connection_rate : 0, size, now);
    pthread_mutex_lock(&pace_lock);
    unsigned long all = pass(&free_at, rate_of_all(), size, now);
    pthread_mutex_unlock(&pace_lock);
    sleep_until(all > until ? all : until);
}

// Whether a request is one of the percent that something happens to; the same ones at each start.
static bool drawn_for(double percent) {
    if (percent <= 0 || !has_network) return false;
    unsigned long x = (atomic_fetch_add(&drawn, 1) + 1) * 0x9E3779B97F4A7C15UL;  // splitmix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9UL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBUL;
    return (double)((x ^ (x >> 31)) >> 11) / 9007199254740992.0 * 100 < percent;
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)(now.tv_sec - cpu_at_reset.tv_sec) + (double)(now.tv_nsec - cpu_at_reset.tv_nsec) / 1e9;
}

// --- content ------------------------------------------------------------------------------------------------------

typedef union block {
    union block *next;
    char bytes[BLOCK];
} block;

// Bytes as they came in with one request.
typedef struct {
    int users;
    bool small;  // one allocation instead of blocks
    size_t size, blocks, room;
    char **block;
} body;

typedef struct {
    body *of;
    size_t offset, length;
} piece;

// What an object or a part consists of: pieces of bodies, so that copying and joining parts move nothing.
typedef struct {
    int users;
    size_t size, pieces;
    char etag[24];
    char modified[40], modified_iso[40];
    char *metadata;  // header lines
    piece piece[];
} content;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *free_blocks;
static atomic_ulong etags;

static char *take_block(void) {
    pthread_mutex_lock(&lock);
    if (!free_blocks) {
        char *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (arena == MAP_FAILED) must(NULL);
        madvise(arena, ARENA, MADV_HUGEPAGE);
        for (size_t at = 0; at < ARENA; at += BLOCK) {
            block *one = (block *)(arena + at);
            one->next = free_blocks;
            free_blocks = one;
        }
    }
    block *taken = free_blocks;
    free_blocks = taken->next;
    pthread_mutex_unlock(&lock);
    return taken->bytes;
}

// Lets go of a body. The lock is held.
static void drop_body(body *gone) {
    if (--gone->users) return;
    for (size_t i = 0; i < gone->blocks; i++) {
        if (gone->small) {
            free(gone->block[i]);
            continue;
        }
        block *one = (block *)gone->block[i];
        one->next = free_blocks;
        free_blocks = one;
    }
    free(gone->block);
    free(gone);
}

// Lets go of a content. The lock is held.
static void drop(content *gone) {
    if (!gone || --gone->users) return;
    for (size_t i = 0; i < gone->pieces; i++) drop_body(gone->piece[i].of);
    free(gone->metadata);
    free(gone);
}

static void release(content *gone) {
    pthread_mutex_lock(&lock);
    drop(gone);
    pthread_mutex_unlock(&lock);
}

// An empty content with room for pieces.
static content *new_content(size_t pieces, const char *metadata) {
    content *made = must(calloc(1, sizeof(content) + pieces * sizeof(piece)));
    struct timespec now;
    struct tm calendar;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &calendar);
    strftime(made->modified, sizeof made->modified, "%a, %d %b %Y %H:%M:%S GMT", &calendar);
    strftime(made->modified_iso, sizeof made->modified_iso, "%Y-%m-%dT%H:%M:%S.000Z", &calendar);
    made->users = 1;
    made->metadata = must(strdup(metadata ? metadata : ""));
    snprintf(made->etag, sizeof made->etag, "%016lx-1", atomic_fetch_add(&etags, 1) + 1);
    return made;
}

// Adds a range of another content, sharing its bytes. The lock is held, or no other thread knows either of them.
static void append(content *to, const content *from, size_t start, size_t length) {
    for (size_t i = 0; i < from->pieces && length; i++) {
        const piece *one = &from->piece[i];
        if (start >= one->length) {
            start -= one->length;
            continue;
        }
        size_t part = one->length - start < length ? one->length - start : length;
        to->piece[to->pieces++] = (piece){one->of, one->offset + start, part};
        one->of->users++;
        to->size += part;
        length -= part;
        start = 0;
    }
}

// --- the index: objects by "bucket/key", sorted; uploads by their number --------------------------------------------

typedef struct {
    char *name;
    content *content;
} object;

static object *objects;
static size_t object_count, object_room;

// Where a name is or would be. The lock is held.
static size_t position(const char *name) {
    size_t low = 0, high = object_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(objects[middle].name, name) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static content *find(const char *name) {
    size_t at = position(name);
    return at < object_count && !strcmp(objects[at].name, name) ? objects[at].content : NULL;
}

static content *find_and_use(const char *name) {
    pthread_mutex_lock(&lock);
    content *found = find(name);
    if (found) found->users++;
    pthread_mutex_unlock(&lock);
    return found;
}

// Puts a content in place, or takes the name away where there is none. The lock is held.
static void set(const char *name, content *value) {
    size_t at = position(name);
    if (at < object_count && !strcmp(objects[at].name, name)) {
        drop(objects[at].content);
        objects[at].content = value;
        if (!value) {
            free(objects[at].name);
            memmove(&objects[at], &objects[at + 1], (--object_count - at) * sizeof *objects);
        }
    } else if (value) {
        if (object_count == object_room) {
            object_room = object_room ? object_room * 2 : 1024;
            objects = must(realloc(objects, object_room * sizeof *objects));
        }
        memmove(&objects[at + 1], &objects[at], (object_count++ - at) * sizeof *objects);
        objects[at] = (object){must(strdup(name)), value};
    }
}

typedef struct upload {
    unsigned long id;
    char *name, *metadata;
    content **part;  // by number
    size_t parts;
    struct upload *next;
} upload;

static upload *uploads;
static unsigned long upload_ids;

// An upload in parts to a name, by its id. The lock is held.
static upload *find_upload(const char *name, const char *id) {
    char *end;
    unsigned long number = strtoul(id, &end, 16);
    for (upload *one = uploads; one && !*end; one = one->next)
        if (one->id == number && !strcmp(one->name, name)) return one;
    return NULL;
}

// Forgets an upload. The lock is held.
static void drop_upload(upload *gone) {
    for (upload **link = &uploads; *link; link = &(*link)->next) {
        if (*link != gone) continue;
        *link = gone->next;
        for (size_t i = 0; i < gone->parts; i++) drop(gone->part[i]);
        free(gone->part);
        free(gone->name);
        free(gone->metadata);
        free(gone);
        return;
    }
}

static bool set_part(const char *name, const char *id, size_t number, content *value) {
    pthread_mutex_lock(&lock);
    upload *one = find_upload(name, id);
    if (one) {
        if (number >= one->parts) {
            one->part = must(realloc(one->part, (number + 1) * sizeof *one->part));
            memset(&one->part[one->parts], 0, (number + 1 - one->parts) * sizeof *one->part);
            one->parts = number + 1;
        }
        drop(one->part[number]);
        one->part[number] = value;
    }
    pthread_mutex_unlock(&lock);
    return one != NULL;
}

// --- text ----------------------------------------------------------------------------------------------------------

typedef struct {
    char *bytes;
    size_t size, room;
} text;

static void add(text *to, const char *format, ...) {
    va_list values;
    for (;;) {
        va_start(values, format);
        int needed = vsnprintf(to->bytes + to->size, to->room - to->size, format, values);
        va_end(values);
        if ((size_t)needed < to->room - to->size) {
            to->size += (size_t)needed;
            return;
        }
        to->room = to->room * 2 + (size_t)needed + 256;
        to->bytes = must(realloc(to->bytes, to->room));
    }
}

// Adds a key to a document: percent-encoded where the client asked for it, else with XML's entities.
static void add_key(text *to, const char *key, size_t length, bool encoded) {
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)key[i];
        if (encoded && !isalnum(c) && !strchr("-_.~/", c)) add(to, "%%%02X", c);
        else if (c == '&') add(to, "&amp;");
        else if (c == '<') add(to, "&lt;");
        else if (c == '>') add(to, "&gt;");
        else add(to, "%c", c);
    }
}

static void decode_percent(char *value, bool plus) {
    char *to = value;
    for (char *from = value; *from; from++) {
        if (*from == '%' && isxdigit((unsigned char)from[1]) && isxdigit((unsigned char)from[2])) {
            char digits[3] = {from[1], from[2], 0};
            *to++ = (char)strtol(digits, NULL, 16);
            from += 2;
        } else *to++ = plus && *from == '+' ? ' ' : *from;
    }
    *to = 0;
}

static void decode_entities(char *value) {
    static const char *const ENTITIES[][2] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#34;", "\""}, {"&apos;", "'"}, {"&#39;", "'"}};
    char *to = value;
    while (*value) {
        size_t i = 0, count = sizeof ENTITIES / sizeof *ENTITIES;
        while (i < count && strncmp(value, ENTITIES[i][0], strlen(ENTITIES[i][0]))) i++;
        if (i < count) {
            *to++ = ENTITIES[i][1][0];
            value += strlen(ENTITIES[i][0]);
        } else *to++ = *value++;
    }
    *to = 0;
}

// --- a connection -----------------------------------------------------------------------------------------------------

typedef struct {
    int socket;
#ifdef TLS
    SSL *tls;
#endif
    unsigned long free_at;  // nanoseconds
    size_t until_loss;      // bytes after which the connection breaks; 0 for one that does not
    char input[HEAD_MAX];
    size_t begin, end;     // what has been received and not used
    char head[HEAD_MAX];   // the request's header lines
    char target[TARGET_MAX];
    char *query;
    int method;
    bool close, counted;
    // The body's state: what is left of it, or of its current chunk.
    bool chunked, aws_chunked, ended;
    size_t left;
    bool aws_ended;
    size_t aws_left;
} connection;

// Counts bytes that have passed; true where the connection has broken off with them.
static bool is_lost(connection *c, size_t size) {
    if (!c->counted || !c->until_loss) return false;
    if (size < c->until_loss) {
        c->until_loss -= size;
        return false;
    }
    atomic_fetch_add(&lost, 1);
    c->close = true;
    struct linger at_once = {1, 0};
    setsockopt(c->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return true;
}

// Has bytes that were received take their time; -1 where the connection has broken off with them.
static ssize_t arrived(connection *c, ssize_t size) {
    if (size <= 0 || !c->counted) return size;
    pace(&c->free_at, (size_t)size);
    return is_lost(c, (size_t)size) ? -1 : size;
}

static ssize_t receive(connection *c, char *to, size_t length) {
    ssize_t got;
#ifdef TLS
    if (c->tls) {
        got = SSL_read(c->tls, to, (int)(length < BLOCK ? length : BLOCK));
        return arrived(c, got);
    }
#endif
    bool paced = is_paced();
    do got = recv(c->socket, to, paced && length > PACED ? PACED : length, 0);
    while (got < 0 && errno == EINTR);
    return arrived(c, got);
}

static void count_received(const connection *c, size_t size) {
    if (c->counted) atomic_fetch_add_explicit(&bytes_in, size, memory_order_relaxed);
}

// Sends a bit of the first parts; -1 where that cannot be done.
static ssize_t send_some(connection *c, struct iovec *parts, size_t count) {
    bool paced = is_paced() || c->until_loss;
    struct iovec first = *parts;
    if (paced && first.iov_len > PACED) first.iov_len = PACED;
#ifdef TLS
    if (c->tls) return first.iov_len ? SSL_write(c->tls, first.iov_base, (int)first.iov_len) : 0;
#endif
    if (paced && c->counted) return send(c->socket, first.iov_base, first.iov_len, MSG_NOSIGNAL);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count > 64 ? 64 : count};
    return sendmsg(c->socket, &message, MSG_NOSIGNAL);
}

static bool send_all(connection *c, struct iovec *parts, size_t count) {
    while (count) {
        // Before they are sent: a client that has the last ones waits for nothing more.
        if (c->counted) pace(&c->free_at, parts->iov_len < PACED ? parts->iov_len : PACED);
        ssize_t sent = send_some(c, parts, count);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 || (!sent && parts->iov_len)) return false;
        if (c->counted) atomic_fetch_add_explicit(&bytes_out, (unsigned long)sent, memory_order_relaxed);
        if (is_lost(c, (size_t)sent)) return false;
        while (count && (size_t)sent >= parts->iov_len) {
            sent -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= (size_t)sent;
        }
    }
    return true;
}

static bool send_text(connection *c, const char *bytes, size_t size) {
    struct iovec part = {(void *)bytes, size};
    return send_all(c, &part, 1);
}

// Reads what is on the wire, first of all what came along with the head.
static ssize_t read_wire(connection *c, char *to, size_t length) {
    if (c->begin == c->end && length == 1) {
        // A reader that looks for the end of a line must not ask the kernel for every byte; the rest is copied once.
        ssize_t got = receive(c, c->input, FRAME);
        if (got <= 0) return got;
        c->begin = 0;
        c->end = (size_t)got;
    }
    if (c->begin < c->end) {
        size_t part = c->end - c->begin < length ? c->end - c->begin : length;
        memcpy(to, c->input + c->begin, part);
        c->begin += part;
        count_received(c, part);
        return (ssize_t)part;
    }
    ssize_t got = receive(c, to, length);
    if (got > 0) count_received(c, (size_t)got);
    return got;
}

typedef ssize_t reader(connection *, char *, size_t);

// Reads a line without its end; false where there is none.
static bool read_line(connection *c, reader *read, char *line, size_t room) {
    size_t size = 0;
    char byte;
    while (read(c, &byte, 1) == 1) {
        if (byte == '\n') {
            line[size && line[size - 1] == '\r' ? size - 1 : size] = 0;
            return true;
        }
        if (size + 1 < room) line[size++] = byte;
    }
    return false;
}

// Goes to the next chunk; at the last one it reads the trailers. Returns its size, -1 for an error.
static ssize_t next_chunk(connection *c, reader *read) {
    char line[1024];
    do {
        if (!read_line(c, read, line, sizeof line)) return -1;
    } while (!*line);  // the end of the chunk before
    size_t size = strtoul(line, NULL, 16);
    if (!size)
        while (read_line(c, read, line, sizeof line) && *line) continue;
    return (ssize_t)size;
}

// The body as HTTP frames it; 0 at its end.
static ssize_t read_http(connection *c, char *to, size_t length) {
    if (c->chunked && !c->left && !c->ended) {
        ssize_t size = next_chunk(c, read_wire);
        if (size < 0) return -1;
        c->left = (size_t)size;
        c->ended = !size;
    }
    if (!c->left) return 0;
    ssize_t got = read_wire(c, to, length < c->left ? length : c->left);
    if (got <= 0) return -1;
    c->left -= (size_t)got;
    return got;
}

// The body's content: without the frames of AWS, of which each has a signature.
static ssize_t read_body(connection *c, char *to, size_t length) {
    if (!c->aws_chunked) return read_http(c, to, length);
    if (!c->aws_left && !c->aws_ended) {
        ssize_t size = next_chunk(c, read_http);
        if (size < 0) return -1;
        c->aws_left = (size_t)size;
        c->aws_ended = !size;
    }
    if (!c->aws_left) return 0;
    ssize_t got = read_http(c, to, length < c->aws_left ? length : c->aws_left);
    if (got <= 0) return -1;
    c->aws_left -= (size_t)got;
    return got;
}

// A header's value, copied; "" where it is not there.
static const char *header(const connection *c, const char *name, char *value, size_t room) {
    size_t length = strlen(name);
    *value = 0;
    for (const char *line = c->head; *line; line = strchr(line, '\n') + 1) {
        if (strncasecmp(line, name, length) || line[length] != ':') continue;
        const char *from = line + length + 1;
        while (*from == ' ') from++;
        size_t size = strcspn(from, "\r\n");
        if (size >= room) size = room - 1;
        memcpy(value, from, size);
        value[size] = 0;
        break;
    }
    return value;
}

// A parameter of the query, decoded; NULL where it is not there.
static const char *parameter(const connection *c, const char *name, char *value, size_t room) {
    size_t length = strlen(name);
    for (const char *at = c->query; at && *at; at = strchr(at, '&'), at = at ? at + 1 : NULL) {
        if (strncmp(at, name, length) || (at[length] && at[length] != '=' && at[length] != '&')) continue;
        const char *from = at + length + (at[length] == '=');
        size_t size = strcspn(from, "&");
        if (size >= room) size = room - 1;
        memcpy(value, from, size);
        value[size] = 0;
        decode_percent(value, true);
        return value;
    }
    return NULL;
}

static bool has(const connection *c, const char *name) {
    char value[8];
    return parameter(c, name, value, sizeof value) != NULL;
}

static bool reply(connection *c, int status, const char *headers, const char *document, size_t size) {
    static const char *const REASONS[] = {[200 - 200] = "OK", [204 - 200] = "No Content"};
    char head[HEAD_MAX];
    const char *reason = status < 205 && REASONS[status - 200] ? REASONS[status - 200] : "Refused";
    int length = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nServer: sink\r\nx-amz-request-id: 1\r\n%s%s%zu\r\n\r\n",
                          status, reason, headers, "Content-Length: ", size);
    struct iovec parts[] = {{head, (size_t)length}, {(void *)document, size}};
    if (c->counted) wait_for_distance();
    return send_all(c, parts, size && c->method != HEAD ? 2 : 1);
}

static bool reply_document(connection *c, text *document) {
    bool sent = reply(c, 200, "Content-Type: application/xml\r\n", document->bytes, document->size);
    free(document->bytes);
    return sent;
}

static bool reply_error(connection *c, int status, const char *code) {
    char document[256];
    int size = snprintf(document, sizeof document,
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>", code, code);
    return reply(c, status, "Content-Type: application/xml\r\n", document, (size_t)size);
}

static bool reply_etag(connection *c, const char *etag) {
    char line[64];
    snprintf(line, sizeof line, "ETag: \"%s\"\r\n", etag);
    return reply(c, 200, line, "", 0);
}

// Reads the body into memory; NULL where the connection broke.
static body *receive_body(connection *c) {
    char value[64];
    size_t expected = strtoul(header(c, "x-amz-decoded-content-length", value, sizeof value), NULL, 10);
    if (!expected && !c->chunked) expected = c->left;
    body *made = must(calloc(1, sizeof *made));
    made->users = 1;
    made->small = expected && expected < BLOCK;
    size_t each = made->small ? expected : BLOCK;
    for (;;) {
        size_t used = made->size - (made->blocks ? (made->blocks - 1) * each : 0);
        ssize_t got;
        if (made->blocks && used < each) {
            got = read_body(c, made->block[made->blocks - 1] + used, each - used);
        } else {
            // Look whether anything is left before taking another block.
            char byte;
            got = read_body(c, &byte, 1);
            if (got == 1 && made->small && made->blocks) got = -1;  // longer than announced
            if (got == 1) {
                if (made->blocks == made->room) {
                    made->room = made->room * 2 + 1;
                    made->block = must(realloc(made->block, made->room * sizeof *made->block));
                }
                made->block[made->blocks++] = made->small ? must(malloc(each)) : take_block();
                made->block[made->blocks - 1][0] = byte;
            }
        }
        if (got > 0) made->size += (size_t)got;
        if (got == 0) return made;
        if (got < 0) {
            pthread_mutex_lock(&lock);
            drop_body(made);
            pthread_mutex_unlock(&lock);
            c->close = true;
            return NULL;
        }
    }
}

// Reads the body as text that ends in a zero byte; NULL where the connection broke.
static char *receive_text(connection *c) {
    text all = {0};
    char part[4096];
    ssize_t got;
    add(&all, "%s", "");
    while ((got = read_body(c, part, sizeof part)) > 0) add(&all, "%.*s", (int)got, part);
    if (got == 0) return all.bytes;
    free(all.bytes);
    c->close = true;
    return NULL;
}

// --- requests ----------------------------------------------------------------------------------------------------------

// The headers that a client gave an object, to be given back with it.
static char *metadata_of(const connection *c) {
    text kept = {0};
    add(&kept, "%s", "");
    for (const char *line = c->head; *line; line = strchr(line, '\n') + 1)
        if (!strncasecmp(line, "x-amz-meta-", 11) || !strncasecmp(line, "Content-Type:", 13))
            add(&kept, "%.*s", (int)(strchr(line, '\n') + 1 - line), line);
    return kept.bytes;
}

static bool names_etag(const char *condition, const content *found) {
    return !strcmp(condition, "*") ? found != NULL : found && strstr(condition, found->etag) != NULL;
}

// Puts a content in its place, under the conditions of the request.
static bool put_in_place(connection *c, const char *name, content *value) {
    char condition[256];
    pthread_mutex_lock(&lock);
    content *before = find(name);
    bool fits = (!*header(c, "If-None-Match", condition, sizeof condition) || !names_etag(condition, before)) &&
                (!*header(c, "If-Match", condition, sizeof condition) || names_etag(condition, before));
    if (fits) set(name, value);
    else drop(value);
    pthread_mutex_unlock(&lock);
    return fits;
}

// Reads "bytes=FIRST-LAST"; false where it lies outside.
static bool parse_range(const char *range, size_t size, size_t *start, size_t *length) {
    *start = 0;
    *length = size;
    if (strncmp(range, "bytes=", 6)) return true;
    char *after;
    if (range[6] == '-') {
        size_t tail = strtoul(range + 7, NULL, 10);
        *length = tail < size ? tail : size;
        *start = size - *length;
        return tail > 0 && size > 0;
    }
    *start = strtoul(range + 6, &after, 10);
    size_t last = *after == '-' && after[1] ? strtoul(after + 1, NULL, 10) : size - 1;
    if (*start >= size || last < *start) return false;
    *length = (last < size ? last + 1 : size) - *start;
    return true;
}

static bool get_object(connection *c, const char *name) {
    char value[256];
    content *found = find_and_use(name);
    if (!found) return reply_error(c, 404, "NoSuchKey");
    size_t start, length;
    bool partial = !strncmp(header(c, "Range", value, sizeof value), "bytes=", 6);
    bool inside = parse_range(value, found->size, &start, &length);
    char condition[256];
    if (*header(c, "If-Match", condition, sizeof condition) && !names_etag(condition, found)) {
        release(found);
        return reply_error(c, 412, "PreconditionFailed");
    }
    if (!inside) {
        release(found);
        return reply_error(c, 416, "InvalidRange");
    }
    text head = {0};
    add(&head, "HTTP/1.1 %s\r\nServer: sink\r\nx-amz-request-id: 1\r\nAccept-Ranges: bytes\r\nETag: \"%s\"\r\n"
        "Last-Modified: %s\r\nContent-Length: %zu\r\n%s", partial ? "206 Partial Content" : "200 OK", found->etag,
        found->modified, length, found->metadata);
    if (!strcasestr(found->metadata, "content-type:")) add(&head, "Content-Type: application/octet-stream\r\n");
    if (partial) add(&head, "Content-Range: bytes %zu-%zu/%zu\r\n", start, start + length - 1, found->size);
    add(&head, "\r\n");
    struct iovec parts[64];
    size_t count = 0;
    parts[count++] = (struct iovec){head.bytes, head.size};
    if (c->counted) wait_for_distance();
    bool sent = true;
    for (size_t i = 0; c->method != HEAD && sent && i < found->pieces && length; i++) {
        const piece *one = &found->piece[i];
        if (start >= one->length) {
            start -= one->length;
            continue;
        }
        for (size_t at = start; sent && at < one->length && length;) {
            size_t inner = one->offset + at;
            size_t block_at = one->of->small ? 0 : inner / BLOCK, offset = one->of->small ? inner : inner % BLOCK;
            size_t part = one->of->small ? one->length - at : BLOCK - offset;
            if (part > one->length - at) part = one->length - at;
            if (part > length) part = length;
            parts[count++] = (struct iovec){one->of->block[block_at] + offset, part};
            at += part;
            length -= part;
            if (count == 16) {
                sent = send_all(c, parts, count);
                count = 0;
            }
        }
        start = 0;
    }
    if (sent && count) sent = send_all(c, parts, count);
    free(head.bytes);
    release(found);
    return sent;
}

// The content that a copy is made of, or NULL after an error has been sent; what is copied is [start, start + length).
static content *copied(connection *c, size_t *start, size_t *length) {
    char source[TARGET_MAX], value[256];
    header(c, "x-amz-copy-source", source, sizeof source);
    source[strcspn(source, "?")] = 0;
    decode_percent(source, false);
    content *found = find_and_use(*source == '/' ? source + 1 : source);
    if (!found) {
        if (!reply_error(c, 404, "NoSuchKey")) c->close = true;
        return NULL;
    }
    bool same = !*header(c, "x-amz-copy-source-if-match", value, sizeof value) || names_etag(value, found);
    header(c, "x-amz-copy-source-range", value, sizeof value);
    if (same && parse_range(value, found->size, start, length)) return found;
    if (!(same ? reply_error(c, 416, "InvalidRange") : reply_error(c, 412, "PreconditionFailed"))) c->close = true;
    release(found);
    return NULL;
}

static bool reply_copy(connection *c, const char *element, const content *made) {
    text document = {0};
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<%s><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag></%s>",
        element, made->modified_iso, made->etag, element);
    return reply_document(c, &document);
}

static bool put_object(connection *c, const char *name) {
    char value[TARGET_MAX], id[64];
    bool is_part = parameter(c, "uploadId", id, sizeof id) != NULL;
    size_t number = parameter(c, "partNumber", value, sizeof value) ? strtoul(value, NULL, 10) : 0;
    if (is_part && (number < 1 || number > 10000)) return reply_error(c, 400, "InvalidArgument");
    bool is_copy = *header(c, "x-amz-copy-source", value, sizeof value);
    char *metadata = metadata_of(c);
    content *made;
    if (is_copy) {
        size_t start, length;
        content *source = copied(c, &start, &length);
        if (!source) {
            free(metadata);
            return !c->close;
        }
        bool replaced = !strcasecmp(header(c, "x-amz-metadata-directive", value, sizeof value), "REPLACE");
        made = new_content(source->pieces, replaced ? metadata : source->metadata);
        pthread_mutex_lock(&lock);
        append(made, source, start, length);
        drop(source);
        pthread_mutex_unlock(&lock);
    } else {
        body *content_body = receive_body(c);
        if (!content_body) {
            free(metadata);
            return false;
        }
        made = new_content(1, metadata);
        made->piece[made->pieces++] = (piece){content_body, 0, content_body->size};
        made->size = content_body->size;
    }
    free(metadata);
    made->users++;  // as long as the answer is written
    bool sent;
    if (is_part) {
        if (set_part(name, id, number, made)) {
            sent = is_copy ? reply_copy(c, "CopyPartResult", made) : reply_etag(c, made->etag);
        } else {
            release(made);
            sent = reply_error(c, 404, "NoSuchUpload");
        }
    } else if (put_in_place(c, name, made)) {
        sent = is_copy ? reply_copy(c, "CopyObjectResult", made) : reply_etag(c, made->etag);
    } else sent = reply_error(c, 412, "PreconditionFailed");
    release(made);
    return sent;
}

static bool begin_upload(connection *c, const char *bucket, const char *name) {
    upload *made = must(calloc(1, sizeof *made));
    made->name = must(strdup(name));
    made->metadata = metadata_of(c);
    pthread_mutex_lock(&lock);
    unsigned long id = made->id = ++upload_ids;
    made->next = uploads;
    uploads = made;
    pthread_mutex_unlock(&lock);
    text document = {0};
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<InitiateMultipartUploadResult><Bucket>%s</Bucket><Key>", bucket);
    add_key(&document, name + strlen(bucket) + 1, strlen(name + strlen(bucket) + 1), false);
    add(&document, "</Key><UploadId>%016lx</UploadId></InitiateMultipartUploadResult>", id);
    return reply_document(c, &document);
}

static bool complete_upload(connection *c, const char *bucket, const char *name, const char *id) {
    char *wanted = receive_text(c);
    if (!wanted) return false;
    content *made = NULL;
    const char *refusal = NULL;
    // Under one lock to the end: the parts must not be replaced or dropped between counting and joining them.
    pthread_mutex_lock(&lock);
    upload *one = find_upload(name, id);
    if (!one) refusal = "NoSuchUpload";
    size_t pieces = 0, before = 0;
    for (char *at = wanted; !refusal && (at = strstr(at, "<PartNumber>")); at += 12) {
        size_t number = strtoul(at + 12, NULL, 10);
        if (number >= one->parts || !one->part[number]) refusal = "InvalidPart";
        else if (number <= before) refusal = "InvalidPartOrder";
        else pieces += one->part[number]->pieces;
        before = number;
    }
    if (!refusal && !before) refusal = "MalformedXML";
    if (!refusal) {
        made = new_content(pieces, one->metadata);
        for (char *at = wanted; (at = strstr(at, "<PartNumber>")); at += 12) {
            const content *part = one->part[strtoul(at + 12, NULL, 10)];
            append(made, part, 0, part->size);
        }
    }
    pthread_mutex_unlock(&lock);
    free(wanted);
    if (refusal) return reply_error(c, one ? 400 : 404, refusal);
    char etag[sizeof made->etag];
    memcpy(etag, made->etag, sizeof etag);
    if (!put_in_place(c, name, made)) return reply_error(c, 412, "PreconditionFailed");
    pthread_mutex_lock(&lock);
    if ((one = find_upload(name, id))) drop_upload(one);
    pthread_mutex_unlock(&lock);
    text document = {0};
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>", bucket);
    add_key(&document, name + strlen(bucket) + 1, strlen(name + strlen(bucket) + 1), false);
    add(&document, "</Key><ETag>&quot;%s&quot;</ETag></CompleteMultipartUploadResult>", etag);
    return reply_document(c, &document);
}

static bool list_parts(connection *c, const char *bucket, const char *name, const char *id) {
    char value[64];
    size_t after = parameter(c, "part-number-marker", value, sizeof value) ? strtoul(value, NULL, 10) : 0;
    size_t limit = parameter(c, "max-parts", value, sizeof value) ? strtoul(value, NULL, 10) : 1000;
    text document = {0};
    pthread_mutex_lock(&lock);
    upload *one = find_upload(name, id);
    if (!one) {
        pthread_mutex_unlock(&lock);
        return reply_error(c, 404, "NoSuchUpload");
    }
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListPartsResult><Bucket>%s</Bucket><Key>", bucket);
    add_key(&document, name + strlen(bucket) + 1, strlen(name + strlen(bucket) + 1), false);
    add(&document, "</Key><UploadId>%s</UploadId>", id);
    size_t number = after + 1, last = after;
    for (; number < one->parts && limit; number++) {
        if (!one->part[number]) continue;
        add(&document, "<Part><PartNumber>%zu</PartNumber><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag><Size>%zu</Size></Part>",
            number, one->part[number]->modified_iso, one->part[number]->etag, one->part[number]->size);
        last = number;
        limit--;
    }
    add(&document, "<NextPartNumberMarker>%zu</NextPartNumberMarker><IsTruncated>%s</IsTruncated></ListPartsResult>", last,
        !limit && last > after && number < one->parts ? "true" : "false");
    pthread_mutex_unlock(&lock);
    return reply_document(c, &document);
}

static bool list_uploads(connection *c, const char *bucket) {
    char prefix[TARGET_MAX], full[TARGET_MAX * 2];
    if (!parameter(c, "prefix", prefix, sizeof prefix)) *prefix = 0;
    snprintf(full, sizeof full, "%s/%s", bucket, prefix);
    text document = {0};
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListMultipartUploadsResult><Bucket>%s</Bucket><IsTruncated>false</IsTruncated>", bucket);
    bool encoded = has(c, "encoding-type");
    pthread_mutex_lock(&lock);
    for (upload *one = uploads; one; one = one->next) {
        if (strncmp(one->name, full, strlen(full))) continue;
        const char *key = one->name + strlen(bucket) + 1;
        add(&document, "<Upload><Key>");
        add_key(&document, key, strlen(key), encoded);
        add(&document, "</Key><UploadId>%016lx</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>", one->id);
    }
    pthread_mutex_unlock(&lock);
    add(&document, "</ListMultipartUploadsResult>");
    return reply_document(c, &document);
}

// Both versions of listing: what follows the marker, common prefixes counted as entries.
static bool list_objects(connection *c, const char *bucket) {
    char prefix[TARGET_MAX], delimiter[16], marker[TARGET_MAX], value[64], full[TARGET_MAX * 2], last[TARGET_MAX];
    bool second = has(c, "list-type"), encoded = has(c, "encoding-type"), truncated = false;
    if (!parameter(c, "prefix", prefix, sizeof prefix)) *prefix = 0;
    if (!parameter(c, "delimiter", delimiter, sizeof delimiter)) *delimiter = 0;
    if (!parameter(c, second ? "continuation-token" : "marker", marker, sizeof marker) &&
        !parameter(c, "start-after", marker, sizeof marker)) *marker = 0;
    size_t limit = parameter(c, "max-keys", value, sizeof value) ? strtoul(value, NULL, 10) : 1000, count = 0;
    if (limit > 1000) limit = 1000;
    size_t skip = strlen(bucket) + 1;
    snprintf(full, sizeof full, "%s/%s", bucket, prefix);
    size_t length = strlen(full);
    *last = 0;
    text entries = {0}, prefixes = {0}, document = {0};
    add(&entries, "%s", "");
    add(&prefixes, "%s", "");
    pthread_mutex_lock(&lock);
    char begin[TARGET_MAX * 2];
    snprintf(begin, sizeof begin, "%s/%s", bucket, strcmp(marker, prefix) > 0 ? marker : prefix);
    for (size_t at = position(begin); at < object_count && !strncmp(objects[at].name, full, length); at++) {
        const char *key = objects[at].name + skip;
        const char *cut = *delimiter ? strstr(objects[at].name + length, delimiter) : NULL;
        size_t key_length = cut ? (size_t)(cut - key) + strlen(delimiter) : strlen(key);
        // A common prefix that has been told is not told again, by this answer or the one before.
        if (*marker && (strcmp(key, marker) <= 0 || (cut && !strncmp(key, marker, key_length)))) continue;
        if (cut && !strncmp(key, last, key_length) && strlen(last) == key_length) continue;
        if (count == limit) {
            truncated = limit > 0;
            break;
        }
        count++;
        snprintf(last, sizeof last, "%.*s", (int)key_length, key);
        const content *found = objects[at].content;
        if (cut) add(&prefixes, "<CommonPrefixes><Prefix>");
        else add(&entries, "<Contents><Key>");
        add_key(cut ? &prefixes : &entries, key, key_length, encoded);
        if (cut) add(&prefixes, "</Prefix></CommonPrefixes>");
        else add(&entries, "</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag><Size>%zu</Size><StorageClass>STANDARD</StorageClass></Contents>",
                 found->modified_iso, found->etag, found->size);
    }
    pthread_mutex_unlock(&lock);
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Name>%s</Name><Prefix>", bucket);
    add_key(&document, prefix, strlen(prefix), encoded);
    add(&document, "</Prefix><MaxKeys>%zu</MaxKeys><KeyCount>%zu</KeyCount><IsTruncated>%s</IsTruncated>", limit, count,
        truncated ? "true" : "false");
    if (encoded) add(&document, "<EncodingType>url</EncodingType>");
    if (truncated) {
        add(&document, second ? "<NextContinuationToken>" : "<NextMarker>");
        // A token is the server's own text, which clients give back as it is.
        add_key(&document, last, strlen(last), encoded && !second);
        add(&document, second ? "</NextContinuationToken>" : "</NextMarker>");
    }
    add(&document, "%s%s</ListBucketResult>", entries.bytes, prefixes.bytes);
    free(entries.bytes);
    free(prefixes.bytes);
    return reply_document(c, &document);
}

static bool delete_objects(connection *c, const char *bucket) {
    char *wanted = receive_text(c);
    if (!wanted) return false;
    text document = {0};
    add(&document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DeleteResult>");
    for (char *at = wanted; (at = strstr(at, "<Key>"));) {
        char *end = strstr(at += 5, "</Key>");
        if (!end) break;
        *end = 0;
        decode_entities(at);
        char name[TARGET_MAX * 2];
        snprintf(name, sizeof name, "%s/%s", bucket, at);
        pthread_mutex_lock(&lock);
        set(name, NULL);
        pthread_mutex_unlock(&lock);
        add(&document, "<Deleted><Key>");
        add_key(&document, at, strlen(at), false);
        add(&document, "</Key></Deleted>");
        at = end + 1;
    }
    free(wanted);
    add(&document, "</DeleteResult>");
    return reply_document(c, &document);
}

static bool own(connection *c, const char *what) {
    text document = {0};
    if (!strcmp(what, "stats")) {
        unsigned long first = atomic_load(&first_request), last = atomic_load(&last_answer);
        add(&document, "{\"span_seconds\": %.6f, ", first && last > first ? (double)(last - first) / 1e9 : 0.0);
        add(&document, "\"bytes_in\": %lu, \"bytes_out\": %lu, \"cpu_seconds\": %.6f, \"connections\": %lu, "
            "\"lost\": %lu, \"refused\": %lu, \"most_requests\": %lu, \"requests\": {", atomic_load(&bytes_in),
            atomic_load(&bytes_out), cpu_seconds(), atomic_load(&connections), atomic_load(&lost), atomic_load(&refused),
            atomic_load(&most_requests));
        for (int i = 0; i < METHODS; i++) add(&document, "%s\"%s\": %lu", i ? ", " : "", METHOD_NAMES[i], atomic_load(&requests[i]));
        add(&document, "}}\n");
        return reply_document(c, &document);
    }
    if (!strcmp(what, "clear")) {
        pthread_mutex_lock(&lock);
        while (uploads) drop_upload(uploads);
        while (object_count) {
            drop(objects[--object_count].content);
            free(objects[object_count].name);
        }
        pthread_mutex_unlock(&lock);
    } else if (!strncmp(what, "limit/", 6)) {
        pthread_mutex_lock(&pace_lock);
        limit = strtoul(what + 6, NULL, 10);
        pthread_mutex_unlock(&pace_lock);
        return reply(c, 204, "", "", 0);
    } else if (!strncmp(what, "network/", 8)) {
        has_network = what[8] != '0';
        return reply(c, 204, "", "", 0);
    } else if (strcmp(what, "reset")) return reply_error(c, 404, "NoSuchKey");
    atomic_store(&first_request, 0);
    atomic_store(&last_answer, 0);
    atomic_store(&bytes_in, 0);
    atomic_store(&bytes_out, 0);
    atomic_store(&connections, 0);
    atomic_store(&lost, 0);
    atomic_store(&refused, 0);
    atomic_store(&most_requests, 0);
    for (int i = 0; i < METHODS; i++) atomic_store(&requests[i], 0);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_at_reset);
    return reply(c, 204, "", "", 0);
}

static bool answer(connection *c) {
    static const char ALL_BUCKETS[] = "<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>";
    char bucket[256], id[64];
    char *name = c->target + 1;
    if (!strncmp(name, "-/", 2)) return own(c, name + 2);
    size_t length = strcspn(name, "/");
    snprintf(bucket, sizeof bucket, "%.*s", (int)length, name);
    bool whole_bucket = !name[length] || !name[length + 1];
    bool in_parts = parameter(c, "uploadId", id, sizeof id) != NULL, known = true;
    if (!*bucket)
        return reply(c, 200, "Content-Type: application/xml\r\n", ALL_BUCKETS, sizeof ALL_BUCKETS - 1);
    switch (c->method) {
    case HEAD:
    case GET:
        if (in_parts) return list_parts(c, bucket, name, id);
        if (!whole_bucket) return get_object(c, name);
        if (c->method == HEAD) return reply(c, 200, "x-amz-bucket-region: us-east-1\r\n", "", 0);
        if (has(c, "location"))
            return reply(c, 200, "Content-Type: application/xml\r\n", "<LocationConstraint/>", 21);
        if (has(c, "uploads")) return list_uploads(c, bucket);
        if (has(c, "versioning"))
            return reply(c, 200, "Content-Type: application/xml\r\n", "<VersioningConfiguration/>", 26);
        return list_objects(c, bucket);
    case PUT:
        return whole_bucket ? reply(c, 200, "", "", 0) : put_object(c, name);
    case POST:
        if (in_parts) return complete_upload(c, bucket, name, id);
        if (has(c, "uploads")) return begin_upload(c, bucket, name);
        if (has(c, "delete")) return delete_objects(c, bucket);
        return reply_error(c, 501, "NotImplemented");
    case DELETE:
        pthread_mutex_lock(&lock);
        if (in_parts) {
            upload *one = find_upload(name, id);
            known = one != NULL;
            if (one) drop_upload(one);
        } else if (!whole_bucket) set(name, NULL);
        pthread_mutex_unlock(&lock);
        return known ? reply(c, 204, "", "", 0) : reply_error(c, 404, "NoSuchUpload");
    default:
        return reply_error(c, 405, "MethodNotAllowed");
    }
}

// Reads a request's head; false where the connection is over.
static bool read_head(connection *c) {
    char *end;
    if (c->begin) {
        memmove(c->input, c->input + c->begin, c->end - c->begin);
        c->end -= c->begin;
        c->begin = 0;
    }
    while (c->input[c->end] = 0, !(end = strstr(c->input, "\r\n\r\n"))) {
        if (c->end + 1 >= sizeof c->input) return false;
        ssize_t got = receive(c, c->input + c->end, sizeof c->input - 1 - c->end);
        if (got <= 0) return false;
        c->end += (size_t)got;
    }
    size_t length = (size_t)(end - c->input) + 4;
    c->begin = length;
    char method[16], version[16];
    if (sscanf(c->input, "%15s %8191s %15s", method, c->target, version) != 3) return false;
    const char *lines = strchr(c->input, '\n') + 1;
    size_t rest = length - 2 - (size_t)(lines - c->input);
    memcpy(c->head, lines, rest);
    c->head[rest] = 0;
    c->method = OTHER;
    for (int i = 0; i < OTHER; i++)
        if (!strcmp(method, METHOD_NAMES[i])) c->method = i;
    if ((c->query = strchr(c->target, '?'))) *c->query++ = 0;
    const char *path = strncmp(c->target, "http://", 7) ? c->target : strchr(c->target + 7, '/');
    if (!path || *path != '/') return false;
    memmove(c->target, path, strlen(path) + 1);
    decode_percent(c->target, false);
    return true;
}

// One more request is being answered, or one fewer.
static void count_open(bool begins) {
    if (!begins) {
        atomic_fetch_sub(&open_requests, 1);
        return;
    }
    unsigned long now = atomic_fetch_add(&open_requests, 1) + 1, most = atomic_load(&most_requests);
    while (now > most && !atomic_compare_exchange_weak(&most_requests, &most, now)) continue;
}

// Refuses a request because there are too many; what was to come with it does not come, or is thrown away.
static bool refuse(connection *c, bool waits) {
    atomic_fetch_add(&refused, 1);
    if (waits) c->chunked = false, c->left = 0;
    return reply_error(c, 503, "SlowDown");
}

static bool answer_all(connection *c) {
    char value[256];
    bool ours = !strncmp(c->target, "/-/", 3), was_counted = c->counted;
    c->counted = !ours;
    // What came with the head of a connection's first request, before it was known whose that is.
    if (!ours && !was_counted) pace(&c->free_at, c->end);
    c->until_loss = 0;
    if (!ours) {
        count_received(c, c->begin);
        atomic_fetch_add_explicit(&requests[c->method], 1, memory_order_relaxed);
        note_time(true);
    }
    header(c, "Transfer-Encoding", value, sizeof value);
    c->chunked = strcasestr(value, "chunked") != NULL;
    header(c, "x-amz-content-sha256", value, sizeof value);
    c->aws_chunked = !strncmp(value, "STREAMING-", 10);
    header(c, "Content-Encoding", value, sizeof value);
    c->aws_chunked = c->aws_chunked || strstr(value, "aws-chunked") != NULL;
    c->ended = c->aws_ended = false;
    c->aws_left = 0;
    c->left = c->chunked ? 0 : strtoul(header(c, "Content-Length", value, sizeof value), NULL, 10);
    header(c, "Connection", value, sizeof value);
    c->close = !strcasecmp(value, "close");
    header(c, "Expect", value, sizeof value);
    bool waits = !strcasecmp(value, "100-continue") && c->begin == c->end;
    // In the middle of what comes, or of what goes where that is much, or else after the answer.
    if (!ours && drawn_for(loss)) c->until_loss = c->left ? c->left / 2 + 1 : 1 + atomic_load(&drawn) * 65537 % (4 * BLOCK);
    bool is_busy = !ours && drawn_for(busy);
    if (!is_busy && waits) {
        wait_for_distance();
        if (!send_text(c, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return false;
    }
    if (!(is_busy ? refuse(c, waits) : answer(c))) return false;
    // What is left of the body must not be taken for the next request.
    char waste[4096];
    while (read_body(c, waste, sizeof waste) > 0) continue;
    while (read_http(c, waste, sizeof waste) > 0) continue;
    if (!ours) note_time(false);
    return !is_lost(c, c->until_loss);
}

#ifdef TLS
static SSL_CTX *tls;
#endif

static void *serve(void *argument) {
    connection *c = must(calloc(1, sizeof *c));
    c->socket = (int)(long)argument;
    wait_for_distance();
#ifdef TLS
    if (tls) {
        wait_for_distance();
        c->tls = SSL_new(tls);
        SSL_set_fd(c->tls, c->socket);
        c->close = SSL_accept(c->tls) != 1;
    }
#endif
    atomic_fetch_add(&connections, 1);
    while (!c->close && read_head(c)) {
        count_open(true);
        bool answered = answer_all(c);
        count_open(false);
        if (!answered) break;
    }
#ifdef TLS
    if (c->tls) SSL_free(c->tls);
#endif
    close(c->socket);
    free(c);
    return NULL;
}

static void speak_tls(const char *certificate, const char *key) {
#ifdef TLS
    tls = SSL_CTX_new(TLS_server_method());
    if (tls && SSL_CTX_use_certificate_chain_file(tls, certificate) == 1 &&
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) == 1) return;
    ERR_print_errors_fp(stderr);
#else
    fprintf(stderr, "sink: compiled without TLS: %s and %s are not used\n", certificate, key);
#endif
    exit(1);
}

// Takes an option with its values; returns how many arguments that were, 0 for what is none.
static int take_option(char **arguments, int count) {
    if (count > 2 && !strcmp(*arguments, "--tls")) {
        speak_tls(arguments[1], arguments[2]);
        return 3;
    }
    if (count < 2) return 0;
    double value = atof(arguments[1]);
    if (!strcmp(*arguments, "--first-byte-ms")) first_byte = (unsigned long)(value * 1e6);
    else if (!strcmp(*arguments, "--connection-rate")) connection_rate = (unsigned long)value;
    else if (!strcmp(*arguments, "--total-rate")) total_rate = (unsigned long)value;
    else if (!strcmp(*arguments, "--loss-of-connections")) loss = value;
    else if (!strcmp(*arguments, "--busy")) busy = value;
    else return 0;
    return 2;
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    for (int at = 2, taken; at < count; at += taken) {
        taken = take_option(arguments + at, count - at);
        if (taken) continue;
        fprintf(stderr, "sink: what is %s?\n", arguments[at]);
        return 2;
    }
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(count > 1 ? atoi(arguments[1]) : 0)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("sink");
        return 1;
    }
    printf("listening on %d\n", ntohs(address.sin_port));
    fflush(stdout);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    for (;;) {
        int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (accepted < 0) continue;
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        pthread_t thread;
        if (pthread_create(&thread, &attributes, serve, (void *)(long)accepted)) close(accepted);
    }
}
