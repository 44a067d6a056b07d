/* Network benchmark inside a guest, fixed work, one "name=figure" line a case. Arguments: address and port of the host's
 * server, MiB to move each way, number of one-byte round trips, address and port of the other guest; there it runs as
 * "serve PORT MIB". */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 << 10];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int dial(const char *host, int port, char mode)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(host) };
	int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	/* The other guest may still be booting. */
	for (int tries = 0; connect(s, (struct sockaddr *)&to, sizeof to) < 0; tries++) {
		if (tries == 600) {
			perror("connect");
			exit(1);
		}
		close(s);
		usleep(200000);
		s = socket(AF_INET, SOCK_STREAM, 0);
	}
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (write(s, &mode, 1) != 1)
		exit(1);
	return s;
}

static double receive(int s, long total)
{
	unsigned long sum = 0;
	double start = now();
	long done;
	ssize_t n;

	for (done = 0; done < total && (n = read(s, buffer, sizeof buffer)) > 0; done += n)
		sum += (unsigned char)buffer[n - 1] == 0x5a;
	close(s);
	if (done != total || !sum)
		exit(1);
	return done / (now() - start) / 1e6;
}

static void send_all(int s, long total)
{
	long done;
	ssize_t n;

	memset(buffer, 0x5a, sizeof buffer);
	for (done = 0; done < total; done += n)
		if ((n = write(s, buffer, total - done < (long)sizeof buffer ? total - done : (long)sizeof buffer)) <= 0)
			exit(1);
}

/* Send to whoever connects and asks for it, again and again. */
static int serve(int port, long total)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), s;
	char mode;

	if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4))
		return 1;
	while ((s = accept(listener, NULL, NULL)) >= 0) {
		if (read(s, &mode, 1) == 1 && mode == 'r')
			send_all(s, total);
		close(s);
	}
	return 1;
}

int main(int argc, char **argv)
{
	const char *host = argv[1];
	int s, port, trips;
	double start;
	ssize_t n;
	long total;

	if (argc == 4 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]), atol(argv[3]) << 20);
	if (argc != 7)
		return 2;
	port = atoi(argv[2]);
	total = atol(argv[3]) << 20;
	trips = atoi(argv[4]);

	/* Wait for the other guest first, so that its boot does not disturb what is measured. */
	close(dial(argv[5], atoi(argv[6]), 'x'));

	s = dial(host, port, 'p');
	start = now();
	for (int i = 0; i < trips; i++)
		if (write(s, "x", 1) != 1 || read(s, buffer, 1) != 1)
			return 1;
	printf("trip=%.1f\n", trips / (now() - start));
	fflush(stdout);
	close(s);

	s = dial(host, port, 'i');
	for (n = 0; n < 64 && read(s, buffer + n, 1) == 1 && buffer[n] != '\n'; n++)
		;
	buffer[n] = 0;
	printf("ping=%s\n", buffer);
	close(s);

	printf("receive=%.2f\n", receive(dial(host, port, 'r'), total));
	fflush(stdout);

	s = dial(host, port, 's');
	start = now();
	send_all(s, total);
	shutdown(s, SHUT_WR);
	if (read(s, buffer, 1) != 1)
		return 1;
	printf("send=%.2f\n", total / (now() - start) / 1e6);
	fflush(stdout);

	printf("between=%.2f\nmoved=%ld\nbench-done\n", receive(dial(argv[5], atoi(argv[6]), 'r'), total), total);
	return 0;
}
