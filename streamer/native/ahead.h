/* Where the page cache is cold, each file costs the walk some waiting for a disk that could serve many at once. So a
 * second, light walk goes in front of it, over names only, and a few threads look at what it finds: they bring inodes
 * and content into the page cache and give nothing to anybody. It is begun once a step has read much from a disk, and
 * ends itself once its threads find everything cached. It is waited for where it ends only. Included by `walk.c`. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#define READERS 8        /* threads that read ahead */
#define TASKS 128        /* entries that wait for one of them */
#define AHEAD 1024       /* entries that reading ahead is in front of the walk, at most */
#define COLD 256         /* blocks of 512 bytes that a step reads from a disk where the page cache is cold */
#define FRONT (2 << 20)  /* bytes of a large file that are read ahead; the rest is the kernel's to read ahead */
#define SYS_LISTXATTRAT 465 /* the same number on every architecture; since Linux 6.13 */

struct task {
    struct folder *folder;
    char name[256];
};

struct scout {
    struct walk *walk; /* its own; used by the first thread */
    int reads;         /* content as well */
    int started;       /* threads */
    pthread_t threads[1 + READERS];
    pthread_mutex_t lock;
    pthread_cond_t work; /* for readers */
    pthread_cond_t room; /* for the first thread: fewer tasks wait, or the walk it is for went on */
    int ended;
    uint64_t seen, passed; /* entries that this walk, and the one it is for, have come by */
    unsigned first, count, done, cold; /* tasks waiting; looked at since the last count, and those that met a disk */
    struct task tasks[TASKS];
};

/* Blocks of 512 bytes that this thread has waited for so far. */
static long disk(void) {
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) < 0 ? 0 : used.ru_inblock;
}

/* With the lock held: from now on nobody looks at anything more. */
static void ending(struct scout *scout) {
    scout->ended = 1;
    pthread_cond_broadcast(&scout->work);
    pthread_cond_signal(&scout->room);
}

static void end(struct scout *scout) {
    pthread_mutex_lock(&scout->lock);
    ending(scout);
    pthread_mutex_unlock(&scout->lock);
}

static void look(struct scout *scout, struct task *task) {
    struct stat st;
    char list[256];
    if (!scout->reads) {
        if (fstatat(task->folder->fd, task->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            syscall(SYS_LISTXATTRAT, task->folder->fd, task->name, AT_SYMLINK_NOFOLLOW, list, sizeof list);
        return;
    }
    if (fstatat(task->folder->fd, task->name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || !st.st_size) return;
    int fd = open_file(task->folder->fd, task->name);
    if (fd < 0) return;
    posix_fadvise(fd, 0, st.st_size < FRONT ? st.st_size : FRONT, POSIX_FADV_WILLNEED);
    close(fd);
}

static void *reading(void *given) {
    struct scout *scout = given;
    pthread_mutex_lock(&scout->lock);
    while (!scout->ended) {
        if (!scout->count) {
            pthread_cond_wait(&scout->work, &scout->lock);
            continue;
        }
        struct task task = scout->tasks[scout->first];
        scout->first = (scout->first + 1) % TASKS;
        if (scout->count-- == TASKS) pthread_cond_signal(&scout->room);
        pthread_mutex_unlock(&scout->lock);
        long before = disk();
        look(scout, &task);
        int met = disk() != before;
        release(task.folder);
        pthread_mutex_lock(&scout->lock);
        scout->done++;
        scout->cold += (unsigned)met;
        if (scout->done == AHEAD) {
            if (scout->cold * 32 < scout->done) ending(scout);
            scout->done = scout->cold = 0;
        }
    }
    pthread_mutex_unlock(&scout->lock);
    return NULL;
}

/* Counts an entry, and waits until it is near enough; 1 if it is worth looking at, 0 if it is not, -1 at the end. */
static int counted(struct scout *scout) {
    pthread_mutex_lock(&scout->lock);
    scout->seen++;
    while (!scout->ended && scout->seen > scout->passed + AHEAD) pthread_cond_wait(&scout->room, &scout->lock);
    int worth = scout->ended ? -1 : scout->seen > scout->passed;
    pthread_mutex_unlock(&scout->lock);
    return worth;
}

static void hand_out(struct scout *scout, struct folder *folder, const char *name) {
    if (strlen(name) > 255) return;
    pthread_mutex_lock(&scout->lock);
    while (!scout->ended && scout->count == TASKS) pthread_cond_wait(&scout->room, &scout->lock);
    if (!scout->ended) {
        struct task *task = &scout->tasks[(scout->first + scout->count++) % TASKS];
        atomic_fetch_add(&folder->users, 1);
        task->folder = folder;
        strcpy(task->name, name);
        pthread_cond_signal(&scout->work);
    }
    pthread_mutex_unlock(&scout->lock);
}

static void *scouting(void *given) {
    struct scout *scout = given;
    struct walk *walk = scout->walk;
    for (;;) {
        while (walk->depth && walk->levels[walk->depth - 1].next == walk->levels[walk->depth - 1].count) leave(walk);
        if (!walk->depth) break;
        struct level *level = &walk->levels[walk->depth - 1];
        size_t index = level->next;
        level->next = behind(level, index);
        int worth = counted(scout);
        if (worth < 0) break;
        struct folder *part = level->parts[part_at(level, index)];
        if (type_at(level, index) != DT_DIR) {
            if (worth) hand_out(scout, part, name_at(level, index));
            continue;
        }
        struct stat st;
        int fd = open_directory(part->fd, name_at(level, index));
        if (fd < 0) continue;
        if (fstat(fd, &st) < 0 || st.st_dev != walk->device) close(fd);
        else descend(walk, index, fd, 0, 0);
    }
    end(scout);
    return NULL;
}

/* Ends reading ahead. */
static void dismiss(struct walk *walk) {
    struct scout *scout = walk->scout;
    if (scout == NULL) return;
    walk->scout = NULL;
    end(scout);
    for (int thread = 0; thread < scout->started; thread++) pthread_join(scout->threads[thread], NULL);
    for (; scout->count; scout->count--, scout->first = (scout->first + 1) % TASKS)
        release(scout->tasks[scout->first].folder);
    ended(scout->walk);
    pthread_mutex_destroy(&scout->lock);
    pthread_cond_destroy(&scout->work);
    pthread_cond_destroy(&scout->room);
    free(scout);
}

/* Begins to read ahead of the entry at the walk's path. Where there is no memory or no thread for it, it just is not. */
static void send_out(struct walk *walk, int reads) {
    struct scout *scout = calloc(1, sizeof *scout);
    if (scout == NULL) return;
    const struct level *root = &walk->levels[0];
    int roots[MOST_PARTS];
    for (int part = 0; part < root->width; part++) roots[part] = root->parts[part]->fd;
    scout->walk = opened(roots, root->width, walk->marks, "", 0, walk->path + walk->root);
    if (scout->walk == NULL) {
        free(scout);
        return;
    }
    scout->walk->most = root->width + FEW_OPEN;
    scout->reads = reads;
    pthread_mutex_init(&scout->lock, NULL);
    pthread_cond_init(&scout->work, NULL);
    pthread_cond_init(&scout->room, NULL);
    walk->scout = scout;
    walk->passed = 0;
    sigset_t all, before; /* signals are the interpreter's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int thread = 0; thread <= READERS; thread++) {
        if (pthread_create(&scout->threads[thread], NULL, thread ? reading : scouting, scout) != 0) break;
        scout->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (scout->started < 2) dismiss(walk);
}

/* After each step: tells how far the walk has come, and begins or ends reading ahead. */
static void reconsider(struct walk *walk, int reads, long before, int more) {
    struct scout *scout = walk->scout;
    if (scout != NULL) {
        pthread_mutex_lock(&scout->lock);
        scout->passed = walk->passed;
        int ended = scout->ended || scout->reads != reads;
        pthread_cond_signal(&scout->room);
        pthread_mutex_unlock(&scout->lock);
        if (ended) dismiss(walk);
    } else if (more && disk() - before >= COLD)
        send_out(walk, reads);
}
