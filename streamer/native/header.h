/* Headers of plain entries, as `tar.header` (profile docker) writes them. Included by `walk.c`. */
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define BLOCK 512

static void octal(char *field, int digits, uint64_t value) {
    for (int at = digits - 1; at >= 0; at--, value >>= 3) field[at] = (char)('0' + (value & 7));
}

static void seal(char *block) {
    uint32_t sum = 8 * ' ';
    for (int at = 0; at < 148; at++) sum += (uint8_t)block[at];
    for (int at = 156; at < BLOCK; at++) sum += (uint8_t)block[at];
    octal(block + 148, 6, sum);
    block[154] = 0;
    block[155] = ' ';
}

static char *ustar(char *out, const struct stat *st, char type, uint64_t size, uint64_t seconds) {
    memset(out, 0, BLOCK);
    octal(out + 100, 7, st->st_mode & 07777);
    octal(out + 108, 7, st->st_uid);
    octal(out + 116, 7, st->st_gid);
    octal(out + 124, 11, size);
    octal(out + 136, 11, seconds);
    out[156] = type;
    memcpy(out + 257, "ustar\00000", 8);
    octal(out + 329, 7, 0);
    octal(out + 337, 7, 0);
    return out;
}

static size_t ascii(char *to, const char *from, size_t length) {
    size_t kept = 0;
    for (size_t at = 0; at < length; at++)
        if (!(from[at] & 0x80)) to[kept++] = from[at];
    return kept;
}

/* `tar.header._field` */
static void field(char *to, const char *text, size_t length, size_t width) {
    memcpy(to, text, length < width ? length : width);
    if (length <= width || to[width - 1] != '/') return;
    size_t end = width - 1;
    while (end && to[end - 1] == '/') end--;
    to[end] = 0;
}

/* Where ustar's prefix field ends (`tar.header._split`); 0 if the name does not fit. */
static size_t split(const char *name, size_t length) {
    size_t end = length;
    if (end > 156) end = 156;
    else if (name[length - 1] == '/') end--;
    while (end && name[end - 1] != '/') end--;
    if (end < 2) return 0;
    size_t at = end - 1, rest = length - at - 1;
    return at > 155 || rest == 0 || rest > 100 ? 0 : at;
}

static int plain(const char *text, size_t length) {
    char seen = 0;
    for (size_t at = 0; at < length; at++) seen |= text[at];
    return !(seen & 0x80);
}

/* The length of a PAX record `path`, which counts the digits of itself; how many those are. */
static size_t record_of(size_t length, size_t *digits) {
    size_t record = length + 7;
    for (int again = 0; again < 2; again++) {
        *digits = 0;
        for (size_t rest = record; rest; rest /= 10) ++*digits;
        record = length + 7 + *digits;
    }
    return record;
}

static size_t padded(size_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* How long the header of a plain entry is. `name` ends in a slash for a directory. */
static size_t measure(const char *name, size_t length) {
    size_t digits;
    if (plain(name, length) && (length <= 100 || split(name, length))) return BLOCK;
    return 2 * BLOCK + padded(record_of(length, &digits));
}

/* The header of a plain entry at `out`; as long as `measure` says. */
static void encode(char *out, const char *name, size_t length, const struct stat *st, char type, uint64_t size,
                   uint64_t seconds, const char *link, size_t link_length) {
    size_t at = 0;
    if (plain(name, length) && (length <= 100 || (at = split(name, length)))) {
        ustar(out, st, type, size, seconds);
        if (at) {
            memcpy(out + 345, name, at);
            memcpy(out, name + at + 1, length - at - 1);
        } else
            memcpy(out, name, length);
        memcpy(out + 157, link, link_length);
        seal(out);
        return;
    }
    size_t digits, record = record_of(length, &digits), body_size = padded(record);
    memset(out, 0, BLOCK + body_size);
    char title[LONGEST + 600];
    size_t parent = length;
    while (parent && name[parent - 1] != '/') parent--; /* with its slash */
    size_t made = 0;
    memcpy(title, name, parent);
    made = parent;
    memcpy(title + made, "PaxHeaders.0", 12);
    made += 12;
    if (parent < length) {
        title[made++] = '/';
        memcpy(title + made, name + parent, length - parent);
        made += length - parent;
    }
    made = ascii(title, title, made);
    if (made > 100) made = 100;
    while (made && title[made - 1] == '/') made--;
    memcpy(out, title, made);
    octal(out + 100, 7, 0);
    octal(out + 108, 7, 0);
    octal(out + 116, 7, 0);
    octal(out + 124, 11, record);
    octal(out + 136, 11, 0);
    out[156] = 'x';
    memcpy(out + 257, "ustar\00000", 8);
    seal(out);

    char *body = out + BLOCK;
    size_t value = record;
    for (size_t place = digits; place; place--, value /= 10) body[place - 1] = (char)('0' + value % 10);
    memcpy(body + digits, " path=", 6);
    memcpy(body + digits + 6, name, length);
    body[record - 1] = '\n';

    char *main = ustar(body + body_size, st, type, size, seconds);
    made = ascii(title, name, length);
    field(main, title, made, 100);
    memcpy(main + 157, link, link_length);
    seal(main);
}
